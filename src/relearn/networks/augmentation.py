"""Augmented views of an image: recolored, flipped, shifted, zoomed, rotated, partly erased.

A view depends on the pixels, the parameters, the hash of the image's file and the number of the view, and on nothing
else: not on the backend, the threads, the order or the process. What is drawn for one option does not depend on the
others, so that turning one on leaves the rest as it was.

Nor does it depend on the processor: sines, roots and products of matrices may differ in their last bits, so all factors
are rounded before they meet a pixel, to so few bits that Pillow's arithmetic on them is exact.
"""

import hashlib
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageStat

from relearn.params.augmentation import AugmentParams

COLOR_STEP = 2.0**-10  # a product of it and 8 bits has at most 24 bits, which float32 holds
PLACE_STEP = 2.0**-16  # two products of it and 8 bits have at most 53, which float64 holds

# How a color's hue is turned about gray: gray + cos (1 - gray) + sin quarter. W3C, "Filter Effects Module Level 1",
# section 12.1.4, feColorMatrix, hueRotate.
GRAY = np.array([[0.213, 0.715, 0.072]] * 3)
COLOR = np.eye(3) - GRAY
QUARTER_TURN = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])


class Chance(NamedTuple):
    """What is drawn for one view: numbers of at least 0 and below 1."""

    horizontal_flip: float
    vertical_flip: float
    shift_x: float
    shift_y: float
    zoom: float
    rotation: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    erasing: float
    erased_area: float
    erased_shape: float
    erased_x: float
    erased_y: float


def draw_chance(seed: int, sha256: str, number: int) -> Chance:
    """Return what is drawn for one view of the image with this hash."""
    key = hashlib.sha256(f"{seed} {sha256} {number}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    return Chance(*rng.random(len(Chance._fields)).tolist())


def augment_image(rgb: Image.Image, params: AugmentParams, sha256: str, number: int) -> Image.Image:
    """Return a view of an RGB image, of the same size; `number` is that of the view, or of the epoch."""
    chance = draw_chance(params.seed, sha256, number)
    return erase(move(recolor(rgb, params, chance), params, chance), params, chance)


def recolor(rgb: Image.Image, params: AugmentParams, chance: Chance) -> Image.Image:
    """Change brightness, contrast, saturation and hue by one matrix and one rounding; values are cut at 0 and 255."""
    if not (params.brightness or params.contrast or params.saturation or params.hue_degrees):
        return rgb
    brightness = 1 + _spread(chance.brightness, params.brightness)
    contrast = 1 + _spread(chance.contrast, params.contrast)
    saturation = 1 + _spread(chance.saturation, params.saturation)
    angle = math.radians(_spread(chance.hue, params.hue_degrees))
    turn = GRAY + math.cos(angle) * COLOR + math.sin(angle) * QUARTER_TURN
    matrix = brightness * contrast * (GRAY + saturation * COLOR) @ turn
    mean_gray = ImageStat.Stat(rgb.convert("L")).mean[0]
    factors = np.column_stack([matrix, np.full(3, brightness * (1 - contrast) * mean_gray)])
    return rgb.convert("RGB", tuple((np.round(factors / COLOR_STEP) * COLOR_STEP).ravel().tolist()))


def move(rgb: Image.Image, params: AugmentParams, chance: Chance) -> Image.Image:
    """Flip, rotate and zoom about the center, then shift, by one affine transform.

    Beyond its edges an image goes on as in a mirror: black corners would be edges that no photo has. A shift is by
    whole pixels, so flips and shifts alone change no pixel's value. Else Pillow interpolates bilinearly and rounds
    down; its bicubic interpolation is not exact in float64.
    """
    width, height = rgb.size
    angle = math.radians(_spread(chance.rotation, params.rotation_degrees))
    zoom = params.zoom_min + chance.zoom * (params.zoom_max - params.zoom_min)
    cosine, sine = (_round(f(angle) / zoom) for f in (math.cos, math.sin))
    flips = chance.horizontal_flip < params.horizontal_flip, chance.vertical_flip < params.vertical_flip
    # From a pixel of the view to its place in the image.
    linear = np.array([[cosine, sine], [-sine, cosine]]) * np.where(flips, -1, 1)[:, np.newaxis]
    shift = np.round([_spread(chance.shift_x, params.shift) * width, _spread(chance.shift_y, params.shift) * height])
    center = np.array([width / 2, height / 2])
    offset = center - linear @ (center + shift)
    if np.array_equal(linear, np.eye(2)) and not shift.any():
        return rgb
    corners = linear @ [[0.5, width - 0.5, 0.5, width - 0.5], [0.5, 0.5, height - 0.5, height - 0.5]]
    corners += offset[:, np.newaxis]
    left, top = np.maximum(0, np.ceil(1 - corners.min(axis=1))).astype(int)
    right, bottom = np.maximum(0, np.ceil(corners.max(axis=1) + 1 - (width, height))).astype(int)
    padded = np.pad(np.asarray(rgb), ((top, bottom), (left, right), (0, 0)), mode="symmetric")
    ((a, b), (d, e)), (c, f) = linear.tolist(), (offset + np.array([left, top])).tolist()
    is_exact = np.array_equal(np.abs(linear), np.eye(2))
    resampling = Image.Resampling.NEAREST if is_exact else Image.Resampling.BILINEAR
    return Image.fromarray(padded).transform(rgb.size, Image.Transform.AFFINE, (a, b, c, d, e, f), resampling)


def erase(rgb: Image.Image, params: AugmentParams, chance: Chance) -> Image.Image:
    """Give a rectangle the image's mean color; its sides, as shares of the image's, differ at most by the factor 2.

    Zhong et al. 2020, "Random Erasing Data Augmentation". They do best with noise, but they train the network, which
    learns to ignore it.
    """
    if chance.erasing >= params.erasing:
        return rgb
    area = params.erased_area_min + chance.erased_area * (params.erased_area_max - params.erased_area_min)
    shape = (1 + chance.erased_shape) / (2 - chance.erased_shape)  # a half to 2
    width, height = round(rgb.width * math.sqrt(area * shape)), round(rgb.height * math.sqrt(area / shape))
    left = int(chance.erased_x * (rgb.width - width + 1))
    top = int(chance.erased_y * (rgb.height - height + 1))
    erased = rgb.copy()
    red, green, blue = map(round, ImageStat.Stat(rgb).mean)
    erased.paste((red, green, blue), (left, top, left + width, top + height))
    return erased


def _spread(drawn: float, reach: float) -> float:
    """Return a number from -reach to reach."""
    return (2 * drawn - 1) * reach


def _round(factor: float) -> float:
    return round(factor / PLACE_STEP) * PLACE_STEP
