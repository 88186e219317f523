"""How many planted copies the gate finds, and how many pairs of different photos it takes for copies.

Usage: python benchmarks/near_duplicates.py SOURCE [MIN_SIDE_PX]

Each of up to 400 images of SOURCE (a folder, zip or tar) is altered in every way below and compared with all images of
SOURCE. A pair of an image and its own copy is a hit, a pair of two different images is false. With a second argument
images from that side on are compared, and not only those of at least 16 px.
"""

import io
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from relearn.dataset.sources import iterate_source
from relearn.errors import ImageError
from relearn.gates.near_duplicates import iterate_near_duplicates
from relearn.images import fingerprints
from relearn.images.decoding import decode_image
from relearn.images.fingerprints import HASH_BYTES, N_HASHES, compute_fingerprint
from relearn.params.data import NearDuplicates
from relearn.storage.files import hash_bytes

N_ALTERED = 400
THRESHOLDS = (32, 48, 64)


def encode(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resize(image, share):
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))


def crop(image, left, top, right, bottom):
    """Cut shares off the four sides."""
    width, height = image.size
    return image.crop(
        (round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom)))
    )


def crop_anywhere(image, share, rng):
    left, top = rng.random() * share, rng.random() * share
    return crop(image, left, top, share - left, share - top)


ALTERATIONS = {
    "JPEG quality 60": lambda image, rng: encode(image, 60),
    "half the size": lambda image, rng: encode(resize(image, 0.5), 92),
    "5 % cropped, center": lambda image, rng: encode(crop(image, 0.025, 0.025, 0.025, 0.025), 92),
    "5 % cropped, one side": lambda image, rng: encode(crop(image, *rng.sample([0.05, 0, 0, 0], 4)), 92),
    "5 % cropped, one corner": lambda image, rng: encode(crop(image, 0.05, 0.05, 0, 0), 92),
    "5 % off every side": lambda image, rng: encode(crop(image, 0.05, 0.05, 0.05, 0.05), 92),
    "5 % cropped, anywhere": lambda image, rng: encode(crop_anywhere(image, 0.05, rng), 92),
    "10 % cropped, anywhere": lambda image, rng: encode(crop_anywhere(image, 0.1, rng), 92),
    "mirrored": lambda image, rng: encode(ImageOps.mirror(image), 92),
    "10 % brighter": lambda image, rng: encode(ImageEnhance.Brightness(image).enhance(1.1), 92),
    "10 % darker": lambda image, rng: encode(ImageEnhance.Brightness(image).enhance(0.9), 92),
    "all but mirrored": lambda image, rng: encode(
        ImageEnhance.Brightness(resize(crop_anywhere(image, 0.05, rng), 0.5)).enhance(0.9), 60
    ),
}


def read_images(source):
    """Return the distinct images that can be decoded, by the hash of their bytes."""
    images = {}
    for file in iterate_source(source):
        if file.refusal is None:
            content = file.read()
            try:
                images[hash_bytes(content)] = decode_image(content).rgb
            except ImageError:
                continue
    return [images[sha256] for sha256 in sorted(images)]


def main():
    if len(sys.argv) > 2:
        fingerprints.MIN_SIDE_PX = int(sys.argv[2])
    images = read_images(Path(sys.argv[1]))
    rng = random.Random(0)
    hashes, origins, kinds = [], [], []

    def add(image, origin, kind):
        hashes.append(compute_fingerprint(image).hashes)
        origins.append(origin)
        kinds.append(kind)

    for number, image in enumerate(images):
        add(image, number, "original")
    altered = sorted(rng.sample(range(len(images)), min(N_ALTERED, len(images))))
    for kind, alter in ALTERATIONS.items():
        for number in altered:
            add(alter(images[number], rng), number, kind)
    n_left_out = sum(not content for content in hashes[: len(images)])
    print(f"{len(images)} distinct images, {n_left_out} of them too small or too uniform; {len(altered)} altered\n")

    usable = [row for row, content in enumerate(hashes) if content]
    table = np.array([np.frombuffer(hashes[row], np.uint8) for row in usable]).reshape(-1, N_HASHES, HASH_BYTES)
    hits = {}
    for mirrored in (True, False):
        for most in THRESHOLDS:
            places = np.arange(len(usable))
            found = iterate_near_duplicates(
                table, places, places, NearDuplicates(severity="warn", max_distance=most, mirrored=mirrored)
            )
            pairs = {pair for part in found for pair in zip(part.first.tolist(), part.second.tolist(), strict=True)}
            hit, false, false_originals = Counter(), 0, 0
            for first, second in pairs:
                one, other = usable[first], usable[second]
                if origins[one] != origins[other]:
                    false += 1
                    false_originals += kinds[one] == kinds[other] == "original"
                elif kinds[one] == "original":
                    hit[kinds[other]] += 1
            hits[mirrored, most] = hit, false, false_originals
    columns = [(True, most) for most in THRESHOLDS] + [(False, 48)]
    print(
        "| found of the copies that were | "
        + " | ".join(f"{most} bits{'' if mirrored else ', not mirrored'}" for mirrored, most in columns)
        + " |"
    )
    print("| --- |" + " ---: |" * len(columns))
    for kind in ALTERATIONS:
        print(f"| {kind} | " + " | ".join(f"{hits[key][0][kind] / len(altered):.1%}" for key in columns) + " |")
    print("| false pairs among originals | " + " | ".join(f"{hits[key][2]:,}" for key in columns) + " |")
    print("| false pairs among all | " + " | ".join(f"{hits[key][1]:,}" for key in columns) + " |")


if __name__ == "__main__":
    main()
