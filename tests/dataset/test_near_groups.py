import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, encode_image
from near_data import compute_table, draw_hashes, draw_product, draw_scene, plant
from relearn.dataset.assignments import Assignment, shorten_hash
from relearn.dataset.inspections import inspect_content
from relearn.dataset.near_duplicates import SecondLook
from relearn.dataset.near_groups import MAX_LOOKS, find_near_groups, group_images
from relearn.dataset.splitting import SourceImage
from relearn.images.fingerprints import HASH_BYTES, HASH_TERMS, N_HASHES
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_bytes

PARAMS = read_params(ROOT / "params.yaml").restructure.model_copy(
    update={"stratify": True, "group_by": "near_duplicates"}
)


class Blind(SecondLook):
    """Finds no far pair alike."""

    def measure(self, row, other):
        return 0.0


def find_groups(hashes, images=None):
    """Return the groups of more than one image, as sets of rows."""
    contents = [encode_image(image) for image in images or []]
    kind = SecondLook if images else Blind
    centers = find_near_groups(hashes, kind(hashes, contents.__getitem__, mirrored=True))
    groups = [set(np.flatnonzero(centers == center).tolist()) for center in np.unique(centers)]
    assert all(center in group for center, group in zip(np.unique(centers).tolist(), groups, strict=True))
    return [group for group in groups if len(group) > 1]


def make_film(n_frames, n_bits=8):
    """Return hashes of which each differs from the one before in a few bits of the high terms, never the same."""
    hashes = draw_hashes(np.random.default_rng(0), n_frames)
    terms = np.arange(HASH_TERMS**2).reshape(HASH_TERMS, HASH_TERMS)
    bits = np.unpackbits(hashes[0, 0])
    high = np.random.default_rng(1).permutation(terms[8:].ravel())
    for frame in range(1, n_frames):
        bits[high[(frame - 1) * n_bits : frame * n_bits]] ^= 1
        hashes[frame, 0] = np.packbits(bits)
    return hashes


def test_a_chain_is_no_group():
    hashes = make_film(3, n_bits=30)  # 0 like 1, 1 like 2, and 60 bits between 0 and 2
    assert find_groups(hashes) == [{0, 1, 2}]  # both are like the center
    hashes = make_film(4, n_bits=30)
    assert sorted(map(len, find_groups(hashes))) in ([3], [2, 2])


def test_a_film_becomes_groups_of_frames_like_their_center():
    hashes = make_film(16)
    groups = find_groups(hashes)
    assert len(groups) >= 2
    assert set.union(*groups) == set(range(16))
    for group in groups:
        assert max(group) - min(group) <= 2 * 4  # a frame is sure to be like those up to 4 away: 32 bits


@pytest.mark.parametrize("seed", range(3))
def test_groups_do_not_depend_on_the_order_of_the_images(seed):
    hashes = make_film(16)
    order = np.random.default_rng(seed).permutation(16)
    groups = [{int(order[row]) for row in group} for group in find_groups(hashes[order])]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, find_groups(hashes)))


def test_a_catalog_of_one_product_gets_few_second_looks(monkeypatch):
    rng = np.random.default_rng(5)
    hashes = draw_hashes(rng, 41)
    for other in range(1, 41):
        plant(rng, hashes, 0, other, 0, 0, 22)  # so that most of them are 33 to 44 bits apart
    looked = []
    monkeypatch.setattr(Blind, "measure", lambda _, *pair: looked.append(pair) or 0.0)
    find_groups(hashes[1:])
    assert 40 < len(looked) <= 40 * MAX_LOOKS  # of 780 pairs


def test_a_camera_that_pans_makes_no_group_of_all_frames():
    scene = draw_scene(1, (640, 240))
    frames = [scene.crop((step * 8, 0, step * 8 + 320, 240)) for step in range(20)]
    groups = find_groups(compute_table(frames), frames)
    assert len(groups) > 2
    assert max(map(len, groups)) <= 8


def test_copies_are_grouped_and_other_products_are_not():
    scene = draw_scene(2)
    images = [draw_product(1), scene.crop((15, 6, 316, 231)), draw_product(2), scene, draw_scene(3)]
    images += [draw_product(1).resize((160, 120)), scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    assert find_groups(compute_table(images), images) == [{0, 5}, {1, 3, 6}]


def test_the_same_hashes_are_one_group_and_images_without_hashes_are_alone():
    hashes = np.repeat(draw_hashes(np.random.default_rng(3), 1), 500, axis=0)
    hashes[::2] = 0
    assert find_groups(hashes) == [set(range(1, 500, 2))]
    assert find_groups(np.zeros((3, N_HASHES, HASH_BYTES), np.uint8)) == []
    assert find_groups(np.zeros((0, N_HASHES, HASH_BYTES), np.uint8)) == []


@pytest.fixture(scope="module")
def copies():
    """Three copies of a photo and another photo, ordered by their hashes, and the bytes of each."""
    scene = draw_scene(4)
    alike = sorted(map(inspect, (scene, scene.resize((160, 120)), scene.convert("L"))))
    return [*alike, inspect(draw_scene(5))], CONTENTS.__getitem__


CONTENTS = {}


def inspect(picture):
    content = encode_image(picture)
    sha256 = hash_bytes(content)
    CONTENTS[sha256] = content
    return inspect_content(content, sha256)


def place(seen, *splits):
    """Return an image for each of the splits that the source names."""
    return [SourceImage(one.sha256, split, "a", one) for one, split in zip(seen, splits, strict=True)]


def test_a_group_is_named_by_its_least_hash(copies):
    seen, read = copies
    images = place([*seen, inspect(Image.new("RGB", (9, 9))), seen[1]], *[None] * 6)
    name = shorten_hash(seen[0].sha256)
    expected = [name, name, name, "", "", name]
    assert [image.group for image in group_images(images, PARAMS, {}, read)] == expected
    assert [image.group for image in group_images(images[::-1], PARAMS, {}, read)] == expected[::-1]
    assert group_images([], PARAMS, {}, read) == []


def test_images_whose_split_the_source_names_have_no_group(copies):
    seen, read = copies
    images = place(seen, "training", "training", "evaluation", "training")
    name = shorten_hash(seen[0].sha256)
    assert [image.group for image in group_images(images, PARAMS, {}, read)] == [
        name,
        name,
        "",
        "",
    ]  # validation is to be cut
    images = place(seen, "training", "training", "evaluation", "validation")
    assert {image.group for image in group_images(images, PARAMS, {}, read)} == {""}


def test_images_that_have_different_splits_are_no_group(copies):
    seen, read = copies
    digits = [shorten_hash(one.sha256) for one in seen]
    known = {digits[0]: Assignment(digits[0], "evaluation", ""), digits[2]: Assignment(digits[2], "training", "")}
    images = place(seen, *[None] * 4)
    groups = [image.group for image in group_images(images, PARAMS, known, read)]
    assert groups == [digits[0], digits[0], "", ""]  # the new one goes to evaluation
    without_memory = PARAMS.model_copy(update={"stratify": False})
    assert [image.group for image in group_images(images, without_memory, known, read)] == [digits[0]] * 3 + [""]
    assert group_images(images, PARAMS.model_copy(update={"group_by": "none"}), known, read) is images
