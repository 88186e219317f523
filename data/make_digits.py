"""Write data/raw/digits.zip from the digits of scikit-learn; the bytes are the same each time.

Usage: python data/make_digits.py [ZIP]
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SAMPLE = Path(__file__).parent / "raw" / "digits.zip"


def write_digits(path: Path) -> None:
    """Write the 1,797 digits as 8x8 grayscale PNG files `LABEL/NUMBER.png`, where NUMBER is the row in `load_digits`.

    The 17 levels of ink, 0 to 16, become 0 to 255. Nothing is compressed and every date is 1980-01-01, so that the
    bytes depend neither on a version of zlib nor on a clock.
    """
    digits = load_digits()
    levels = np.rint(digits.images * 255 / 16).astype(np.uint8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, (image, label) in enumerate(zip(levels, digits.target, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG", compress_level=0)
            archive.writestr(zipfile.ZipInfo(f"{label}/{number:04}.png"), png.getvalue())


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]) if sys.argv[1:] else SAMPLE)
