import tracemalloc

import numpy as np
import pandas as pd
import pytest

from relearn.gates import near_duplicates
from relearn.gates.near_duplicates import N_BANDS, find_nearest, iterate_near_duplicates, mark_near_duplicates, search
from relearn.images.fingerprints import HASH_BYTES, HASH_TERMS, N_HASHES, WINDOWS
from relearn.params.data import NearDuplicates

RULE = NearDuplicates(severity="warn", max_distance=48, mirrored=True)


def draw_hashes(rng, n_images):
    return rng.integers(0, 256, (n_images, N_HASHES, HASH_BYTES), np.uint8)


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


def plant(rng, hashes, image, other, window, n_low, n_all):
    """Make a window of `other` differ from the whole of `image` in so many bits, so many of them of the low terms."""
    bits = np.unpackbits(hashes[image, 0])
    is_low = np.zeros((HASH_TERMS, HASH_TERMS), bool)
    is_low[:8, :8] = True
    bits[rng.choice(np.flatnonzero(is_low), n_low, replace=False)] ^= 1
    bits[rng.choice(np.flatnonzero(~is_low), n_all - n_low, replace=False)] ^= 1
    hashes[other, window] = np.packbits(bits)


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


def find_pairs(hashes, groups, mirrored):
    found = iterate_near_duplicates(
        hashes, np.arange(len(hashes)), groups, NearDuplicates(severity="warn", max_distance=48, mirrored=mirrored)
    )
    return {pair for pairs in found for pair in zip(*(part.tolist() for part in pairs), strict=True)}


def test_no_image_and_no_pair():
    for n_images in (0, 1, 5):
        hashes = draw_hashes(np.random.default_rng(1), n_images)
        assert find_pairs(hashes, np.arange(n_images), mirrored=True) == set()
        assert list(find_nearest(hashes, np.arange(n_images), np.arange(n_images), RULE)[0]) == [-1] * n_images


def make_images(splits):
    return pd.DataFrame({"path": [f"{split}/{n}" for n, split in enumerate(splits)], "split": splits})


def test_the_earlier_image_is_marked_with_the_nearest_later_one():
    rng = np.random.default_rng(2)
    hashes = draw_hashes(rng, 6)
    plant(rng, hashes, 0, 3, 0, 0, 20)
    plant(rng, hashes, 0, 5, 0, 0, 4)
    hashes[4] = 0
    splits = ["training"] * 3 + ["validation"] + ["evaluation"] * 2
    marked = mark_near_duplicates(make_images(splits), hashes, RULE)
    assert list(marked["is_compared"]) == [True] * 4 + [False, True]
    # 3 and 5 are near each other through 0
    assert list(marked["has_twin_split"]) == [1, 0, 0, 1, 0, 0]
    assert list(marked["twin_split"]) == ["evaluation/5", "", "", "evaluation/5", "", ""]
    assert marked["distance_split"][0] == 4


def test_a_picture_that_is_there_a_thousand_times_is_marked_each_time():
    rng = np.random.default_rng(3)
    hashes = np.repeat(draw_hashes(rng, 1), 3000, axis=0)
    splits = ["training"] * 1500 + ["evaluation"] * 1500
    marked = mark_near_duplicates(make_images(splits), hashes, RULE)
    assert (marked["has_twin_split"][:1500] == 1).all()
    assert (marked["has_twin_split"][1500:] == 0).all()
    assert set(marked["twin_split"][:1500]) == {"evaluation/1500"}


def test_images_without_hashes_are_not_alike():
    hashes = np.zeros((4, N_HASHES, HASH_BYTES), np.uint8)
    marked = mark_near_duplicates(make_images(["training", "training", "evaluation", "evaluation"]), hashes, RULE)
    assert not marked["has_twin_split"].any()
    assert not marked["is_compared"].any()


def test_groups_may_be_labels():
    rng = np.random.default_rng(4)
    hashes = draw_hashes(rng, 3)
    plant(rng, hashes, 0, 1, 0, 0, 4)
    plant(rng, hashes, 0, 2, 0, 0, 8)
    images = pd.DataFrame({"path": ["a", "b", "c"], "label": ["cat", "cat", "dog"]})
    marked = mark_near_duplicates(images, hashes, RULE, "label")
    assert list(marked["twin_label"]) == ["c", "c", ""]


def test_frames_of_one_scene_take_no_memory_for_their_pairs(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_HITS", 50)
    rng = np.random.default_rng(5)
    hashes = np.repeat(draw_hashes(rng, 1), 2000, axis=0)
    hashes[np.arange(2000), 0, rng.integers(16, HASH_BYTES, 2000)] ^= np.uint8(1)
    hashes[:, 1, 30] = np.arange(2000) % 256
    hashes[:, 2, 30] = np.arange(2000) // 256
    tracemalloc.start()
    marked = mark_near_duplicates(make_images(["training"] * 1000 + ["evaluation"] * 1000), hashes, RULE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert marked["has_twin_split"][:1000].all()
    assert peak < 100e6  # of all pairs there are 22,000,000
