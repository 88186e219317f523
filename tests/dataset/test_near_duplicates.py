import numpy as np
import pytest

from near_data import draw_hashes, plant
from relearn.dataset import near_duplicates
from relearn.dataset.near_duplicates import N_BANDS, find_candidates, search
from relearn.images.fingerprints import WINDOWS


@pytest.mark.parametrize("most", [0, 3, 2 * N_BANDS - 1])
def test_search_finds_what_comparing_all_finds(most):
    rng = np.random.default_rng(most)
    table = rng.integers(0, 1 << 63, 3000, np.uint64)
    queries = np.concatenate([table[:200], rng.integers(0, 1 << 63, 200, np.uint64)])
    for row in range(200):
        for bit in rng.choice(64, rng.integers(0, 12), replace=False):
            queries[row] ^= np.uint64(1) << np.uint64(bit)
    found = {pair for rows in search(queries, table, most) for pair in zip(*map(list, rows), strict=True)}
    distances = np.bitwise_count(queries[:, None] ^ table)
    assert found == set(zip(*map(list, np.nonzero(distances <= most)), strict=True))
    assert len(found) > 10


def test_search_refuses_what_it_could_miss():
    with pytest.raises(ValueError, match=f"wanted a distance below {2 * N_BANDS}, got {2 * N_BANDS}"):
        list(search(np.zeros(1, np.uint64), np.zeros(1, np.uint64), 2 * N_BANDS))


def test_pairs_are_those_of_different_groups_by_window_and_mirror():
    rng = np.random.default_rng(0)
    hashes = draw_hashes(rng, 20)
    groups = np.arange(20) % 2
    plant(rng, hashes, 0, 1, 0, 2, 10)  # the whole
    plant(rng, hashes, 2, 3, 5, 8, 48)  # a window, just near enough
    plant(rng, hashes, 5, 4, 5, 8, 20)  # the other way round
    plant(rng, hashes, 6, 8, 0, 0, 0)  # the same group
    plant(rng, hashes, 10, 11, 0, 4, 49)  # too far
    plant(rng, hashes, 12, 13, 0, 9, 9)  # too far by the low terms
    hashes[14, len(WINDOWS)] = hashes[15, 0]  # mirrored
    assert find_pairs(hashes, groups, mirrored=False) == {(0, 1, 10), (2, 3, 48), (4, 5, 20)}
    assert find_pairs(hashes, groups, mirrored=True) == {(0, 1, 10), (2, 3, 48), (4, 5, 20), (14, 15, 0)}


def find_pairs(hashes, groups, *, mirrored, n_nearest=100):
    pairs = find_candidates(hashes, np.arange(len(hashes)), groups, 48, n_nearest, mirrored=mirrored)
    found = list(zip(*(part.tolist() for part in pairs), strict=True))
    assert found == sorted(found, key=lambda pair: (pair[0], pair[2], pair[1]))
    assert len({pair[:2] for pair in found}) == len(found)
    return set(found)


def test_no_image_and_no_pair():
    for n_images in (0, 1, 5):
        assert find_pairs(draw_hashes(np.random.default_rng(1), n_images), np.arange(n_images), mirrored=True) == set()


@pytest.mark.parametrize("max_waiting", [0, 1000])
def test_each_image_has_its_nearest_candidates(monkeypatch, max_waiting):
    monkeypatch.setattr(near_duplicates, "MAX_WAITING", max_waiting)
    rng = np.random.default_rng(2)
    hashes = draw_hashes(rng, 9)
    for other, n_bits in ((3, 20), (5, 4), (6, 4), (7, 30)):
        plant(rng, hashes, 0, other, 4, 0, n_bits)
    assert find_pairs(hashes, np.arange(9), mirrored=False, n_nearest=3) == {(0, 5, 4), (0, 6, 4), (0, 3, 20)}
