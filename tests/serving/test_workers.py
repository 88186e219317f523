"""Which images run at once, and what decoding may take."""

import asyncio
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from inference.exports import write_export
from relearn.errors import ImageError
from relearn.images import decoding
from relearn.images.formats import FORMATS
from relearn.inference.exported import ExportedModel
from relearn.serving.decoding import _HEADER_ERRORS, estimate_bytes
from relearn.serving.measurements import QUIET_SECONDS, Measurements
from relearn.serving.served import ServedModel
from relearn.serving.settings import MAX_WORKERS
from relearn.serving.workers import WorkerPool

PNG = encode_image(draw_image(1), "PNG")


class SlowModel:
    """Answers the length of a file once `go` is set, and notes which images run on all cores."""

    def __init__(self):
        self.go = threading.Event()
        self.n_started = 0
        self.on_all_cores = []

    def read_image(self, content, max_pixels):
        self.n_started += 1
        return np.array([len(content)])

    def predict_one(self, pixels, *, on_all_cores):
        self.on_all_cores.append(on_all_cores)
        assert self.go.wait(10)
        return pixels


@contextmanager
def open_pool(max_pixels=1_000_000):
    workers = WorkerPool(Measurements(), max_pixels)
    try:
        yield workers
    finally:
        workers.close()


@pytest.fixture
def workers():
    with open_pool() as pool:
        yield pool


@pytest.mark.parametrize(("n_cores", "n_at_once"), [(3, 3), (100, MAX_WORKERS)])
def test_as_many_images_run_at_once_as_there_are_cores(monkeypatch, n_cores, n_at_once):
    monkeypatch.setattr("relearn.serving.workers.count_threads", lambda: n_cores)
    with open_pool() as workers:
        first, second = SlowModel(), SlowModel()

        async def ask():
            models = [first, second] * 6
            tasks = [asyncio.create_task(workers.predict(model, b"x" * n)) for n, model in enumerate(models, start=1)]
            async with asyncio.timeout(10):
                while first.n_started + second.n_started < n_at_once:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert first.n_started + second.n_started == n_at_once
            first.go.set()
            assert int((await tasks[0])[0]) == 1
            assert not tasks[1].done()
            second.go.set()
            return [int(row[0]) for row in await asyncio.gather(*tasks)]

        assert asyncio.run(ask()) == list(range(1, 13))


def test_decoding_waits_for_memory(monkeypatch):
    monkeypatch.setattr("relearn.serving.workers.count_threads", lambda: 3)
    monkeypatch.setattr("relearn.serving.workers.MAX_DECODING_BYTES", 5 * 100 * 8)
    monkeypatch.setattr("relearn.serving.workers.estimate_bytes", lambda *_: 2 * 100 * 8)
    with open_pool() as workers:
        model, go, n_decoding = SlowModel(), threading.Event(), []

        def read_image(content, max_pixels):
            n_decoding.append(1)
            assert go.wait(10)
            return np.array([len(content)])

        model.read_image = read_image
        model.go.set()

        async def ask():
            tasks = [asyncio.create_task(workers.predict(model, b"x")) for _ in range(6)]
            async with asyncio.timeout(10):
                while len(n_decoding) < 2:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert len(n_decoding) == 2
            go.set()
            return await asyncio.gather(*tasks)

        assert len(asyncio.run(ask())) == len(n_decoding) == 6


def test_bad_image_does_not_hurt_the_others(workers, tmp_path):
    write_export(tmp_path / "exported")
    model = ServedModel(tmp_path / "exported")

    async def ask():
        tasks = [workers.predict(model, content) for content in (PNG, b"no image", PNG)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(second, ImageError)
    assert first.tobytes() == third.tobytes() == model.predict_probabilities([model.read_image(PNG)])[0].tobytes()


@pytest.mark.parametrize(
    ("n_cores", "wanted"), [(1, [False] * 4), (2, [True] + [False] * 3), (4, [True] * 3 + [False])]
)
def test_run_takes_all_cores_while_some_are_unused(monkeypatch, n_cores, wanted):
    monkeypatch.setattr("relearn.serving.workers.count_threads", lambda: n_cores)
    model = SlowModel()
    model.go.set()
    with open_pool() as workers:

        async def ask():
            for n_images in range(1, 5):
                with workers.hold_places(n_images):
                    await workers.predict(model, b"x")

        asyncio.run(ask())
    assert model.on_all_cores == wanted


def read_threads(session):
    options = session.get_session_options()
    spins = options.get_session_config_entry("session.intra_op.allow_spinning")
    return options.intra_op_num_threads, spins, options.get_session_config_entry("session.intra_op.spin_duration_us")


@pytest.mark.parametrize(
    ("n_threads", "wide", "narrow"), [(1, (1, "0"), (1, "0")), (2, (2, "1"), (1, "0")), (20, (20, "1"), (13, "0"))]
)
def test_image_gets_the_same_bits_from_all_threads_and_from_few(tmp_path, n_threads, wide, narrow):
    write_export(tmp_path / "exported")
    model = ServedModel(tmp_path / "exported", n_threads)
    assert read_threads(model._session) == (*wide, "100")
    assert read_threads(model._narrow_session) == (*narrow, "100")
    pixels = model.read_image(PNG)
    (wanted,) = ExportedModel(tmp_path / "exported").predict_probabilities([pixels])
    for on_all_cores in (True, False):
        assert model.predict_one(pixels, on_all_cores=on_all_cores).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("on_all_cores", "other"), [(True, "_narrow_session"), (False, "_session")])
def test_image_runs_in_the_session_that_it_is_meant_for(monkeypatch, tmp_path, on_all_cores, other):
    write_export(tmp_path / "exported")
    model = ServedModel(tmp_path / "exported", n_threads=2)
    monkeypatch.setattr(model, other, None)
    assert model.predict_one(model.read_image(PNG), on_all_cores=on_all_cores).sum() == pytest.approx(1)


def test_end_answers_what_waits():
    workers, model = WorkerPool(Measurements(), 1000), SlowModel()

    async def ask():
        tasks = [asyncio.create_task(workers.predict(model, b"x" * n)) for n in range(6)]
        while not model.n_started:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(workers.close))
        await asyncio.sleep(0.05)
        assert not closing.done()
        model.go.set()
        await closing
        with pytest.raises(RuntimeError, match="after shutdown"):
            await workers.predict(model, b"x")
        return [int(row[0]) for row in await asyncio.gather(*tasks)]

    assert asyncio.run(ask()) == list(range(6))


def test_small_images_do_not_wait_for_large_ones_which_run_one_by_one(workers):
    workers._max_pixels = 50_000_000
    model, small_go, n_at_once = SlowModel(), threading.Event(), [0]
    model.go.set()
    large = encode_image(Image.new("1", (6000, 4000)), "PNG")

    def read_image(content, max_pixels):
        if content == large:
            n_at_once.append(n_at_once[-1] + 1)
            assert small_go.wait(10)
            time.sleep(0.005)
            n_at_once.append(n_at_once[-1] - 1)
        return np.array([len(content)])

    model.read_image = read_image

    async def ask():
        tasks = [asyncio.create_task(workers.predict(model, large)) for _ in range(20)]
        await asyncio.sleep(0)  # they are all handed on before the small one
        async with asyncio.timeout(5):
            await workers.predict(model, PNG)
        assert not any(task.done() for task in tasks)
        small_go.set()
        return await asyncio.gather(*tasks)

    with workers.hold_places(21):
        assert len(asyncio.run(ask())) == 20
    assert max(n_at_once) == 1
    assert model.on_all_cores == [False] * 21


def test_no_damaged_header_is_an_error_of_the_estimate():
    assert {*decoding._DECODING_ERRORS} - {NotImplementedError} <= {*_HEADER_ERRORS}


@pytest.mark.parametrize("file_format", FORMATS)
def test_memory_is_known_from_the_header(file_format):
    content = encode_image(draw_image(1, (64, 64)), file_format)
    per_pixel = 16 if file_format == "WEBP" else 8
    assert estimate_bytes(content, 10_000_000) == 64 * 64 * per_pixel
    assert estimate_bytes(content, 100) == 100 * per_pixel
    assert estimate_bytes(content[:20], 100) <= 100 * per_pixel


def test_refusals_of_one_kind_are_logged_once_a_minute(monkeypatch, caplog):
    now = SimpleNamespace(monotonic=lambda: clock[0])
    clock = [1000.0]
    monkeypatch.setattr("relearn.serving.measurements.time", now)
    measurements = Measurements()
    for _ in range(5):
        measurements.refuse_image("damaged PNG file: \x1b[31mred")
    measurements.refuse_image("empty file")
    assert caplog.messages == [
        "refused: damaged PNG file: \\u001b[31mred",
        "refused: empty file",
    ]
    clock[0] += QUIET_SECONDS
    measurements.refuse_image("damaged GIF file: cut")
    assert caplog.messages[2] == "refused: damaged GIF file: cut (4 more since the last line of this kind)"
    assert b'relearn_refusals_total{reason="damaged"} 6.0' in measurements.describe()
