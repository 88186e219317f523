import io
import struct

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn.errors import DamagedImage, UnsupportedImage
from relearn.images import bmp
from relearn.images.bmp import unfold_bmp

PALETTE = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0, 9, 8, 7, 0])  # red, green, blue, and a dark one


def make_bmp(runs, width=4, height=2, bits=8):
    """A run-length encoded BMP of four colors, rows from the bottom."""
    method = 1 if bits == 8 else 2
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, method, len(runs), 0, 0, 4, 0)
    start = 14 + len(header) + len(PALETTE)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + PALETTE + runs


def read_indices(content):
    """Return the indices of an unfolded BMP, rows from the top."""
    return np.asarray(Image.open(io.BytesIO(content))).tolist()


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "1"])
def test_plain_files_stay(mode):
    content = encode_image(draw_image(1, mode=mode), "BMP")
    assert unfold_bmp(content) == content


@pytest.mark.parametrize(
    ("runs", "bits"),
    [
        (b"\4\1\0\0" + b"\2\2\2\3" + b"\0\1", 8),
        (b"\4\1\0\0" + b"\0\4\2\2\3\3" + b"\0\1", 8),  # the second row is literal
        (b"\4\x11\0\0" + b"\2\x22\2\x33" + b"\0\1", 4),
    ],
)
def test_runs_become_rows(runs, bits):
    assert read_indices(unfold_bmp(make_bmp(runs, bits=bits))) == [[2, 2, 3, 3], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("runs", "error", "message"),
    [
        (b"\4\1\0\0\2\2", DamagedImage, "image file is truncated"),
        (b"\5\1\0\0\4\2\0\1", DamagedImage, "a run beyond its row"),
        (b"\2\1\0\0\4\2\0\1", UnsupportedImage, "runs that leave out pixels; save it as PNG"),
        (b"\0\1", UnsupportedImage, "runs that leave out pixels; save it as PNG"),
    ],
)
def test_runs_that_do_not_fill_the_image_are_refused(runs, error, message):
    with pytest.raises(error, match=rf"^{message}$"):
        unfold_bmp(make_bmp(runs))


def test_too_many_runs_are_not_read(monkeypatch):
    monkeypatch.setattr(bmp, "_MAX_RUNS", 3)
    with pytest.raises(UnsupportedImage, match=r"^more than 3 runs; save it as PNG$"):
        unfold_bmp(make_bmp(b"\1\1" * 8))


def test_large_runs_are_not_read(monkeypatch):
    monkeypatch.setattr(bmp, "LARGE_PIXELS", 7)
    with pytest.raises(UnsupportedImage, match=r"^4 x 2 px in runs, at most 7 pixels are read; save it as PNG$"):
        unfold_bmp(make_bmp(b"\4\1\0\0\4\2\0\1"))
