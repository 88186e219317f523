"""Hashes that are near each other by a known number of bits, and drawings that look alike."""

import numpy as np
from PIL import Image, ImageDraw

from conftest import draw_image
from relearn.images.fingerprints import HASH_BYTES, HASH_TERMS, N_HASHES, WINDOWS, compute_fingerprint


def draw_hashes(rng, n_images):
    return rng.integers(0, 256, (n_images, N_HASHES, HASH_BYTES), np.uint8)


def plant(rng, hashes, image, other, window, n_low, n_all):
    """Make a window of `other` differ from the whole of `image` in `n_all` bits, `n_low` of them of low terms."""
    bits = np.unpackbits(hashes[image, 0])
    is_low = np.zeros((HASH_TERMS, HASH_TERMS), bool)
    is_low[:8, :8] = True
    bits[rng.choice(np.flatnonzero(is_low), n_low, replace=False)] ^= 1
    bits[rng.choice(np.flatnonzero(~is_low), n_all - n_low, replace=False)] ^= 1
    hashes[other, window] = np.packbits(bits)


def draw_scene(seed, size=(320, 240)):
    """Draw soft blobs, as a photo has."""
    return draw_image(seed, (24, 18)).resize(size, Image.Resampling.BICUBIC)


def draw_product(seed):
    """Draw a thing on white: of the same outline for each seed, and of another pattern."""
    outline = Image.new("L", (320, 240), 0)
    draw = ImageDraw.Draw(outline)
    for box in ((30, 110, 140, 220), (190, 110, 300, 220), (80, 60, 250, 170)):
        draw.ellipse(box, fill=255)
    draw.rectangle((140, 30, 180, 90), fill=255)
    pattern = draw_image(seed, (16, 16)).resize((320, 240), Image.Resampling.BICUBIC)
    image = Image.new("RGB", (320, 240), "white")
    image.paste(Image.blend(Image.new("RGB", (320, 240), (60, 60, 60)), pattern, 0.3), mask=outline)
    return image


def compute_table(images):
    """Return the hashes of images as `read_hashes` does."""
    hashes = [np.frombuffer(compute_fingerprint(image).hashes, np.uint8) for image in images]
    return np.array(hashes).reshape(len(images), N_HASHES, HASH_BYTES)


def measure_distance(hashes, image, other):
    """Return the least distance of the whole of one image, also mirrored, to a window of the other."""
    n_windows = len(WINDOWS)
    pairs = [(hashes[one, (0, n_windows)], hashes[two, :n_windows]) for one, two in ((image, other), (other, image))]
    return min(int(np.bitwise_count(wholes[:, None] ^ parts).sum(axis=2).min()) for wholes, parts in pairs)
