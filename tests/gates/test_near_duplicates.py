import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from conftest import encode_image
from near_data import compute_table, draw_hashes, draw_product, draw_scene, measure_distance, plant
from relearn import paths
from relearn.dataset import near_duplicates
from relearn.dataset.near_duplicates import SecondLook
from relearn.errors import IntegrityError
from relearn.gates.near_duplicates import N_CANDIDATES, mark_near_duplicates
from relearn.images.fingerprints import HASH_BYTES, N_HASHES
from relearn.params.data import NearDuplicates
from relearn.storage.files import hash_bytes

RULE = NearDuplicates(severity="warn", max_distance=48, mirrored=True)


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
    assert list(marked["nearness_split"][[0, 1, 3]]) == ["distance 4", "", "distance 24"]


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


def write_dataset(*images):
    """Write images to the dataset, the last one to evaluation; return their rows and hashes."""
    rows = make_images(["training"] * (len(images) - 1) + ["evaluation"])
    contents = [encode_image(image) for image in images]
    for path, content in zip(rows["path"], contents, strict=True):
        (paths.DATASET / path).parent.mkdir(parents=True, exist_ok=True)
        (paths.DATASET / path).write_bytes(content)
    return rows.assign(sha256=list(map(hash_bytes, contents))), compute_table(images)


def crop_far(image):
    """Crop an image as no window does."""
    return image.crop((15, 6, image.width - 4, image.height - 9))


def test_far_pairs_get_a_second_look(workspace):
    product, scene = draw_product(1), draw_scene(1)
    other, copy = draw_product(2), crop_far(scene)
    for image, similar, marked in ((product, other, False), (scene, copy, True)):
        images, hashes = write_dataset(image, similar)
        assert 32 < measure_distance(hashes, 0, 1) <= 48
        row = mark_near_duplicates(images, hashes, RULE).iloc[0]
        assert row["has_twin_split"] == marked
        assert re.fullmatch(r"distance \d\d, similarity 0\.9\d" if marked else "", row["nearness_split"])


def test_the_nearest_that_is_confirmed_is_the_twin(workspace):
    """A false candidate that is nearer does not hide the copy."""
    images, hashes = write_dataset(draw_scene(1), crop_far(draw_scene(1)), draw_product(1), draw_product(2))
    rng = np.random.default_rng(6)
    images["split"] = ["training", "evaluation", "evaluation", "evaluation"]
    plant(rng, hashes, 0, 2, 0, 0, 33)
    assert mark_near_duplicates(images, hashes, RULE)["twin_split"][0] == images["path"][1]
    plant(rng, hashes, 0, 2, 0, 0, 32)  # near enough without a second look
    assert mark_near_duplicates(images, hashes, RULE)["twin_split"][0] == images["path"][2]


def test_an_image_that_was_changed_gets_no_second_look(workspace):
    images, hashes = write_dataset(draw_product(1), draw_product(2))
    path = paths.DATASET / images["path"][1]
    path.write_bytes(b"x")
    with pytest.raises(IntegrityError, match=rf"{path}: wanted sha256 .*, got other bytes; remove the file"):
        mark_near_duplicates(images, hashes, RULE)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{path}: cannot be read: No such file or directory; run `dvc repro"):
        mark_near_duplicates(images, hashes, RULE)


def test_each_image_gets_a_second_look_with_few(monkeypatch):
    n_others = N_CANDIDATES + 5
    rng = np.random.default_rng(7)
    hashes = draw_hashes(rng, n_others + 1)
    for other in range(1, n_others + 1):
        plant(rng, hashes, 0, other, 0, 0, 33 + other % 3)
    looked = []
    monkeypatch.setattr(SecondLook, "measure", lambda _, *pair: looked.append(pair) or 0.0)
    images = make_images(["training"] + ["evaluation"] * n_others)
    assert not mark_near_duplicates(images, hashes, RULE)["has_twin_split"].any()
    near = sorted(range(1, n_others + 1), key=lambda other: (other % 3, other))
    assert looked == [(0, other) for other in near[:N_CANDIDATES]]
