import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image
from relearn.errors import IntegrityError
from relearn.images.fingerprints import (
    HASH_BYTES,
    N_HASHES,
    WINDOWS,
    compute_fingerprint,
    read_hashes,
    write_hashes,
)


def draw_scene(seed, size=(300, 240)):
    """Draw soft blobs, as a photo has."""
    return draw_image(seed, (12, 10)).resize(size, Image.Resampling.BICUBIC)


def compare(image, other):
    """Return the least fine distance of the whole of one image to a window of the other, or the mirrored whole."""
    first, second = (
        np.frombuffer(compute_fingerprint(rgb).hashes, np.uint8).reshape(N_HASHES, HASH_BYTES) for rgb in (image, other)
    )
    n_windows = len(WINDOWS)
    pairs = [(first[0], second[:n_windows]), (second[0], first[:n_windows]), (first[n_windows], second[:n_windows])]
    return min(int(np.bitwise_count(whole ^ windows).sum(axis=1).min()) for whole, windows in pairs)


def encode(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


ALTERED = {
    "encoded": lambda image: encode(image, 60),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "stretched": lambda image: image.resize((400, 200)),
    "cropped": lambda image: image.crop((9, 3, image.width - 6, image.height - 9)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter": lambda image: image.point(lambda value: min(255, int(value * 1.1))),
}


@pytest.mark.parametrize("alteration", ALTERED)
@pytest.mark.parametrize("seed", range(5))
def test_copies_are_near(alteration, seed):
    image = draw_scene(seed)
    assert compare(image, ALTERED[alteration](image)) <= 48


def test_other_images_are_far():
    images = [draw_scene(seed) for seed in range(12)]
    assert min(compare(images[i], images[j]) for i in range(12) for j in range(i)) > 70


def test_hash_of_a_small_or_uniform_image_would_be_of_noise():
    assert compute_fingerprint(draw_scene(1, (16, 16))).hashes
    assert compute_fingerprint(draw_scene(1, (300, 15))).hashes == b""
    assert compute_fingerprint(Image.new("RGB", (300, 300), "red")).hashes == b""


def test_contrast_is_the_standard_deviation_of_brightness():
    image = Image.new("RGB", (64, 64), "black")
    assert compute_fingerprint(image).contrast == 0
    image.paste("white", (0, 0, 32, 64))
    assert compute_fingerprint(image).contrast == pytest.approx(127.5, abs=0.5)


def test_hashes_are_read_as_they_were_written(workspace):
    hashes = [compute_fingerprint(draw_scene(seed)).hashes for seed in (1, 2)]
    write_hashes(Path("hashes.npy"), 3, [hashes[0], b"", hashes[1]])
    table = read_hashes(Path("hashes.npy"))
    assert table.shape == (3, N_HASHES, HASH_BYTES)
    assert [row.tobytes() for row in table] == [hashes[0], bytes(N_HASHES * HASH_BYTES), hashes[1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"hashes\.npy: wanted an array, got No data left in file; run `dvc repro --force restructure`"),
        (b"text", r"hashes\.npy: wanted an array, got "),
        (np.zeros((3, 5)), rf"hashes\.npy: wanted uint8 of shape \(images, {N_HASHES}, {HASH_BYTES}\), got float64"),
    ],
)
def test_what_is_no_table_of_hashes(workspace, content, message):
    if isinstance(content, bytes):
        Path("hashes.npy").write_bytes(content)
    else:
        np.save("hashes.npy", content)
    with pytest.raises(IntegrityError, match=message):
        read_hashes(Path("hashes.npy"))
