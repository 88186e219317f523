import threading

import numpy as np
import pytest

from relearn.heads.products import N_TASKS, BlockRows, HeldRows, Workers, hold_in_blocks


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_parts", [0, 1, 4, 9, 100])
def test_parts_come_back_in_order(n_threads, n_parts, monkeypatch):
    monkeypatch.setenv("RELEARN_THREADS", str(n_threads))
    with Workers() as workers:
        assert workers.map(lambda part: part**2, range(n_parts)) == [part**2 for part in range(n_parts)]


def test_no_part_is_handed_to_a_single_thread(monkeypatch):
    monkeypatch.setenv("RELEARN_THREADS", "1")
    with Workers() as workers:
        assert set(workers.map(lambda _: threading.get_ident(), range(20))) == {threading.get_ident()}


def test_each_thread_gets_several_parts_at_once(monkeypatch):
    monkeypatch.setenv("RELEARN_THREADS", "3")
    handed = []
    with Workers() as workers:
        submit = workers._executor.submit

        def _count(*arguments):
            handed.append(arguments)
            return submit(*arguments)

        monkeypatch.setattr(workers._executor, "submit", _count)
        threads = workers.map(lambda _: threading.get_ident(), range(100))
    assert threading.get_ident() not in threads
    assert 3 <= len(handed) <= 3 * N_TASKS


@pytest.mark.parametrize("kind", ["held", "blocks", "single"])
def test_product_is_that_of_the_whole_matrix(kind, monkeypatch):
    monkeypatch.setattr("relearn.heads.products.BLOCK_BYTES", 4096)
    rng = np.random.default_rng(0)
    n_outputs = 1 if kind == "single" else 3
    rows, scales = rng.normal(size=(700, 300)), rng.uniform(1, 2, (700, 1))
    weights, offset = rng.normal(size=(300, n_outputs)), rng.normal(size=n_outputs)
    with Workers() as workers:
        match kind:
            case "held":
                found = HeldRows(rows, n_outputs, workers)
            case "blocks":
                found = BlockRows(np.array_split(rows, 40), workers)
            case _:
                found = hold_in_blocks(rows, workers)
        product, total = found.multiply(weights, offset, lambda part, margins: margins * scales[part])
    responses = (rows @ weights + offset) * scales
    np.testing.assert_allclose(product, rows.T @ responses, rtol=0, atol=1e-9 * np.abs(product).max())
    np.testing.assert_allclose(total, responses.sum(axis=0), rtol=0, atol=1e-9 * np.abs(total).max())
