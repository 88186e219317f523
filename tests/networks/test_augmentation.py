import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydantic import ValidationError

from conftest import ROOT, draw_image
from relearn.networks.augmentation import augment_image, draw_chance
from relearn.params.augmentation import AugmentParams
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_bytes

OFF = read_params(ROOT / "params.yaml").augment
SHA256 = "5" * 64
EVERYTHING = {
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "shift": 0.2,
    "zoom_min": 0.7,
    "zoom_max": 1.5,
    "rotation_degrees": 30.0,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue_degrees": 40.0,
    "erasing": 0.5,
}


def change(**changes):
    return AugmentParams.model_validate(OFF.model_dump() | changes)


def draw_photo(size=(64, 48)):
    """Draw something smooth, in colors."""
    small = draw_image(3, (6, 5))
    return small.resize(size, Image.Resampling.BICUBIC)


def make_views(image, n_views=40, **changes):
    params = change(**changes)
    return [np.asarray(augment_image(image, params, SHA256, number)).astype(int) for number in range(1, n_views + 1)]


def list_hashes():
    """Return the hash of the pixels of some views with everything on."""
    params, image = change(**EVERYTHING), draw_photo()
    return [hash_bytes(augment_image(image, params, SHA256, number).tobytes())[:16] for number in range(1, 9)]


def test_views_have_the_committed_pixels():
    assert list_hashes() == [
        "5cfb21c35ae33110",
        "c6e47364aed0da61",
        "3878a2b5287146dc",
        "eab9bbbfab399e78",
        "4eebd2b603db8148",
        "082c6770fe72aadc",
        "666cf436a806beaa",
        "a57e5dfe278d4b98",
    ]


def test_views_are_the_same_in_another_process_and_on_any_number_of_threads():
    program = "from networks.test_augmentation import list_hashes; print(*list_hashes())"
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "PATH": ""}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == list_hashes()
    view = partial(augment_image, draw_photo(), change(**EVERYTHING), SHA256)
    for n_threads in (1, 4):
        with ThreadPoolExecutor(n_threads) as executor:
            pixels = list(executor.map(lambda number: view(number).tobytes(), range(8, 0, -1)))
        assert [hash_bytes(content)[:16] for content in reversed(pixels)] == list_hashes()


def test_seed_hash_and_number_each_decide():
    drawn = {draw_chance(*which) for which in product((0, 1), (SHA256, "6" * 64), (1, 2))}
    assert len(drawn) == 8
    assert all(0 <= number < 1 for chance in drawn for number in chance)


def test_one_option_leaves_what_is_drawn_for_the_others():
    image = draw_photo()
    flipped = make_views(image, horizontal_flip=0.5)
    both = make_views(image, horizontal_flip=0.5, vertical_flip=1.0)
    assert all(np.array_equal(one, other[::-1]) for one, other in zip(flipped, both, strict=True))


def test_nothing_changes_if_all_is_off():
    image = draw_image(0)
    assert OFF.is_off
    assert all(np.array_equal(view, np.asarray(image)) for view in make_views(image))


@pytest.mark.parametrize("option", EVERYTHING)
def test_each_option_changes_pixels(option):
    image = draw_photo()
    assert not change(**{option: EVERYTHING[option]}).is_off
    assert any((view != np.asarray(image)).any() for view in make_views(image, **{option: EVERYTHING[option]}))


@pytest.mark.parametrize(("size", "option", "flip"), [
    ((12, 10), "horizontal_flip", ImageOps.mirror),
    ((7, 9), "vertical_flip", ImageOps.flip),
])  # fmt: skip
def test_flips_are_those_of_pillow_as_often_as_asked_for(size, option, flip):
    image = draw_image(0, size)
    flipped = np.asarray(flip(image))
    assert all(np.array_equal(view, flipped) for view in make_views(image, 10, **{option: 1.0}))
    views = make_views(image, 400, **{option: 0.25})
    assert all(np.array_equal(view, flipped) or np.array_equal(view, np.asarray(image)) for view in views)
    assert 70 <= sum(np.array_equal(view, flipped) for view in views) <= 130


def test_a_shift_moves_whole_pixels_within_its_range_and_mirrors_the_edge():
    image = draw_image(0, (20, 10))
    padded = np.pad(np.asarray(image), ((10, 10), (20, 20), (0, 0)), mode="symmetric").astype(int)
    found = set()
    for view in make_views(image, 300, shift=0.2):
        places = [
            (x, y)
            for x, y in product(range(-4, 5), range(-2, 3))
            if np.array_equal(view, padded[10 - y : 20 - y, 20 - x : 40 - x])
        ]
        assert len(places) == 1
        found.add(places[0])
    assert {x for x, _ in found} == set(range(-4, 5))
    assert {y for _, y in found} == set(range(-2, 3))


def measure_scale(view):
    """Return the slope of a ramp along x and along y, from red and green, in the middle."""
    middle = view[20:44, 20:44].astype(float)
    return np.diff(middle[:, :, 0].mean(axis=0)).mean(), np.diff(middle[:, :, 1].mean(axis=1)).mean()


def test_zoom_enlarges_within_its_range_in_both_directions_alike():
    x = np.arange(64)
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 2 * x, 2 * x[:, np.newaxis]
    zooms = []
    for view in make_views(Image.fromarray(ramp), 100, zoom_min=0.8, zoom_max=2.0):
        slopes = measure_scale(view)
        assert slopes[0] == pytest.approx(slopes[1], abs=0.05)
        zooms.append(2 / slopes[0])
    assert 0.78 < min(zooms) < 0.85
    assert 1.9 < max(zooms) < 2.05


def test_a_rotation_turns_by_at_most_its_angle():
    x = np.arange(64)
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 2 * x, 2 * x[:, np.newaxis]
    angles = []
    for view in make_views(Image.fromarray(ramp), 100, rotation_degrees=25.0):
        red = view[24:40, 24:40, 0].astype(float)
        along, across = np.diff(red, axis=1).mean(), np.diff(red, axis=0).mean()
        assert np.hypot(along, across) == pytest.approx(2, abs=0.05)
        angles.append(np.degrees(np.arctan2(across, along)))
    assert -26 < min(angles) < -20
    assert 20 < max(angles) < 26
    noise = draw_image(0, (9, 9))  # its center stays, whatever turns
    centers = [view[4, 4] - np.asarray(noise)[4, 4] for view in make_views(noise, rotation_degrees=180.0)]
    assert np.abs(centers).max() <= 1


def test_brightness_contrast_saturation_and_hue():
    image = draw_photo()
    pixels = np.asarray(image).astype(int)
    halved = [view.mean() / pixels.mean() for view in make_views(image, 100, brightness=0.2)]
    assert 0.79 < min(halved) < 0.84
    assert 1.13 < max(halved) < 1.21
    for view in make_views(image, contrast=0.4):
        assert view.mean() == pytest.approx(pixels.mean(), abs=6)  # some values are cut at 0 and 255
    spreads = [view.std() / pixels.std() for view in make_views(image, 100, contrast=0.4)]
    assert 0.59 < min(spreads) < 0.7
    assert max(spreads) > 1.2
    gray = image.convert("L").convert("RGB")
    for options in ({"saturation": 0.9}, {"hue_degrees": 180.0}):
        assert all(np.abs(view - np.asarray(gray)).max() <= 1 for view in make_views(gray, **options))
    plain = np.ptp(pixels, axis=2).mean()
    colorful = [np.ptp(view, axis=2).mean() / plain for view in make_views(image, saturation=0.5)]
    assert 0.49 < min(colorful) < 0.7
    assert max(colorful) > 1.2
    red = Image.new("RGB", (2, 2), (200, 60, 60))
    hues = {int(view[0, 0].argmax()) for view in make_views(red, hue_degrees=180.0)}
    assert hues == {0, 1, 2}
    assert {int(view[0, 0].argmax()) for view in make_views(red, hue_degrees=30.0)} == {0}


def test_a_rectangle_of_the_stated_area_gets_the_mean_color():
    image = draw_image(0, (100, 80))
    mean = np.round(np.asarray(image).mean(axis=(0, 1))).astype(int)
    shares = []
    for view in make_views(image, 100, erasing=1.0, erased_area_min=0.1, erased_area_max=0.3):
        erased = (view == mean).all(axis=2)
        rows, columns = np.flatnonzero(erased.mean(axis=1) > 0.1), np.flatnonzero(erased.mean(axis=0) > 0.1)
        box = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()
        assert np.array_equal(view[~erased], np.asarray(image)[~erased])
        shares.append(box.size / erased.size)
    assert 0.09 < min(shares) < 0.13
    assert 0.27 < max(shares) < 0.31
    untouched = sum(np.array_equal(view, np.asarray(image)) for view in make_views(image, 200, erasing=0.5))
    assert 70 <= untouched <= 130


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (64, 48)])
def test_views_keep_the_size(size):
    for number in range(10):
        params = change(**EVERYTHING | {"zoom_min": 0.25, "zoom_max": 4.0, "shift": 0.9, "rotation_degrees": 180.0})
        assert augment_image(draw_image(0, size), params, SHA256, number).size == size


@pytest.mark.parametrize("option", sorted(EVERYTHING.keys() - {"zoom_min", "zoom_max"} | {"erased_area_min"}))
def test_ranges_are_checked(option):
    with pytest.raises(ValidationError, match=option):
        change(**{option: -0.1})


@pytest.mark.parametrize("name", ["zoom", "erased_area"])
def test_a_range_begins_with_its_least(name):
    with pytest.raises(ValidationError, match=rf"{name}_min of at most {name}_max, got 0\.5 and 0\.4"):
        change(**{f"{name}_min": 0.5, f"{name}_max": 0.4})
