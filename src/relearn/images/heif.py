"""HEIC and AVIF files, as phones and browsers write them: which of the two, and in which colors."""

import io
import math
import re
import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pillow_heif
from PIL import AvifImagePlugin, Image, ImageCms

from relearn.errors import DamagedImage, UnsupportedImage

# Each image is decoded by one thread: the stages decode several images at once.
pillow_heif.options.DECODE_THREADS = 1
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# The first box of the file names its brands: the major one, a version, and those that it is compatible with.
# Source: ISO/IEC 14496-12, 4.3, and ISO/IEC 23008-12, 10.
_BRANDS = rb"\0\0\0.ftyp"
HEIC_SIGNATURE = _BRANDS + rb"(?:he[iv][cxms]|m[is][fa][1f]....(?:.{4}){0,14}?he[iv][cxms])"
AVIF_SIGNATURE = _BRANDS + rb"(?:avi[fs]|m[is][fa][1f]....(?:.{4}){0,14}?avi[fs])"

# Code points of ITU-T H.273: color primaries that are sRGB's or so near that no decoder converts them, and the
# transfer characteristics of high dynamic range (PQ and HLG).
_SRGB_PRIMARIES = {0, 1, 2, 5, 6, 7}
_HIGH_DYNAMIC_RANGE = {16, 18}

_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_STRIP_ROWS = 64


def read_greatest_size(content: bytes) -> tuple[int, int]:
    """Return width and height of the largest image that the file states; libheif refuses one whose pixels differ."""
    sizes = [struct.unpack(">II", sides) for sides in re.findall(rb"ispe\0{4}(.{8})", content, re.DOTALL)]
    return max(sizes, key=math.prod, default=(0, 0))


def read_colors(image: Image.Image, content: bytes) -> dict[str, Any]:
    """Return what a HEIC or AVIF file says of its colors, for `convert_colors`.

    Raises
    ------
    DamagedImage
        The file contradicts its format.
    UnsupportedImage
        It is of high dynamic range: the picture for ordinary screens is not in it.
    """
    try:
        # Pillow's reader of AVIF does not tell the colors; libheif reads them from the header of either format.
        info = image.info if image.format == "HEIF" else pillow_heif.open_heif(io.BytesIO(content)).info
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, IndexError) as error:
        raise DamagedImage(str(error)) from None
    if info.get("nclx_profile", {}).get("transfer_characteristics") in _HIGH_DYNAMIC_RANGE:
        raise UnsupportedImage("high dynamic range (PQ or HLG)", advice="save it as JPEG")
    return {key: info[key] for key in ("icc_profile", "nclx_profile") if info.get(key)}


def convert_colors(rgb: Image.Image, colors: Mapping[str, Any]) -> Image.Image:
    """Return an RGB image in sRGB; raise `DamagedImage` if its color profile cannot be read."""
    if "icc_profile" in colors:
        return _apply_profile(rgb, colors["icc_profile"])
    primaries = colors.get("nclx_profile", {})
    if primaries.get("color_primaries", 2) not in _SRGB_PRIMARIES:
        return _change_primaries(rgb, primaries)
    return rgb


def _apply_profile(rgb: Image.Image, content: bytes) -> Image.Image:
    if len(content) > _MAX_PROFILE_BYTES:
        raise DamagedImage(f"its color profile has {len(content):,} bytes, at most {_MAX_PROFILE_BYTES:,} are read")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        is_gray = profile.profile.xcolor_space.strip() != "RGB"
        if not is_gray and not ImageCms.getProfileDescription(profile).startswith("sRGB"):
            ImageCms.profileToProfile(rgb, profile, ImageCms.createProfile("sRGB"), inPlace=True)
    except (OSError, ImageCms.PyCMSError) as error:
        raise DamagedImage(f"its color profile cannot be read ({error})") from None
    return rgb


def _change_primaries(rgb: Image.Image, primaries: dict[str, float]) -> Image.Image:
    """Convert from the stated primaries to those of sRGB; both have the transfer characteristics of sRGB."""
    to_srgb = np.linalg.inv(_to_xyz(_SRGB)) @ _to_xyz(primaries)
    decode, encode = _transfer_tables()
    pixels = np.array(rgb)
    for top in range(0, len(pixels), _STRIP_ROWS):
        linear = decode[pixels[top : top + _STRIP_ROWS]]
        for channel, (red, green, blue) in enumerate(to_srgb):
            mixed = red * linear[..., 0] + green * linear[..., 1] + blue * linear[..., 2]
            level = np.rint(mixed.clip(0, 1) * (len(encode) - 1)).astype(np.uint16)
            pixels[top : top + _STRIP_ROWS, :, channel] = encode[level]
    return Image.fromarray(pixels)


_SRGB = {
    "color_primary_red_x": 0.64, "color_primary_red_y": 0.33,
    "color_primary_green_x": 0.30, "color_primary_green_y": 0.60,
    "color_primary_blue_x": 0.15, "color_primary_blue_y": 0.06,
    "color_primary_white_x": 0.3127, "color_primary_white_y": 0.3290,
}  # fmt: skip


def _to_xyz(primaries: dict[str, float]) -> np.ndarray:
    """Return the matrix, of shape (3, 3), from linear RGB to CIE XYZ; source: SMPTE RP 177."""

    def find_xyz(color: str) -> np.ndarray:
        x, y = (primaries[f"color_primary_{color}_{axis}"] for axis in "xy")
        return np.array([x / y, 1.0, (1 - x - y) / y])

    columns = np.stack([find_xyz(color) for color in ("red", "green", "blue")], axis=1)
    return columns * np.linalg.solve(columns, find_xyz("white"))


@cache
def _transfer_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return linear light of 256 levels, and levels of 65,536 steps of linear light; source: IEC 61966-2-1."""
    level, light = np.arange(256) / 255, np.arange(65536) / 65535
    decode = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    encode = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return decode, np.rint(encode * 255).astype(np.uint8)
