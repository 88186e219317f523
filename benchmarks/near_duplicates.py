"""How many planted copies the gate finds, and how many pairs of different photos it takes for copies.

Usage: python benchmarks/near_duplicates.py SOURCE [MIN_SIDE_PX]     altered copies of the images of SOURCE
       python benchmarks/near_duplicates.py products [N_IMAGES]      of drawings on white, of the same outline
       python benchmarks/near_duplicates.py cases FOLDER             pairs FOLDER/{same,different}/NAME-{a,b}.jpg

Each of up to 400 images of SOURCE (a folder, zip or tar) is altered in every way below and compared with all images of
SOURCE. A pair of an image and its own copy is a hit, a pair of two different images is false (unless SOURCE itself has
copies). With MIN_SIDE_PX images from that side on are compared, and not only those of at least 16 px.
"""

import io
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from relearn.dataset.near_duplicates import MIN_SIMILARITY, SURE_DISTANCE, SecondLook, find_candidates
from relearn.dataset.similarity import draw_gray
from relearn.dataset.sources import iterate_source
from relearn.errors import ImageError
from relearn.images import fingerprints
from relearn.images.decoding import decode_image
from relearn.images.fingerprints import HASH_BYTES, N_HASHES, compute_fingerprint
from relearn.storage.files import hash_bytes

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

N_ALTERED = 400
# The largest distance, whether mirrored copies count, and whether far pairs get a second look.
COLUMNS = {
    "32 bits": (32, True, False),
    "48 bits": (48, True, False),
    "64 bits": (64, True, False),
    "48 bits, second look": (48, True, True),
    "the same, not mirrored": (48, False, True),
}


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


def collect(images, rng):
    """Return the hashes, origins, kinds and small gray squares of images and of altered copies of some."""
    rows = []

    def add(image, origin, kind):
        content = compute_fingerprint(image).hashes
        if content:
            buffer = io.BytesIO()
            draw_gray(image).save(buffer, "PNG")
            rows.append((np.frombuffer(content, np.uint8), origin, kind, buffer.getvalue()))

    for number, image in enumerate(images):
        add(image, number, "original")
    n_left_out = len(images) - len(rows)
    altered = sorted(rng.sample(range(len(images)), min(N_ALTERED, len(images))))
    for kind, alter in ALTERATIONS.items():
        for number in altered:
            add(alter(images[number], rng), number, kind)
    print(f"{len(images)} distinct images, {n_left_out} of them too small or too uniform; {len(altered)} altered\n")
    hashes, origins, kinds, squares = zip(*rows, strict=True)
    return len(altered), np.array(hashes).reshape(-1, N_HASHES, HASH_BYTES), origins, kinds, squares


def count_pairs(hashes, origins, kinds, squares, column):
    """Return the number of hits of each kind, and of false pairs among originals and among all."""
    most, mirrored, looks = column
    places = np.arange(len(hashes))
    look = SecondLook(hashes, squares.__getitem__, mirrored=mirrored)
    pairs = find_candidates(hashes, places, places, most, len(hashes), mirrored=mirrored)
    hit, n_looked, seconds = Counter(), 0, 0.0
    for first, second, distance in zip(*(part.tolist() for part in pairs), strict=True):
        is_copy = origins[first] == origins[second]
        if is_copy and kinds[first] != "original":
            continue
        if looks and distance > SURE_DISTANCE:
            start = time.monotonic()
            similarity = look.measure(first, second)
            seconds, n_looked = seconds + time.monotonic() - start, n_looked + 1
            if similarity < MIN_SIMILARITY:
                continue
        hit[kinds[second]] += is_copy
        hit["false pairs among all"] += not is_copy
        hit["false pairs among originals"] += not is_copy and kinds[first] == kinds[second] == "original"
    if looks:
        print(f"{n_looked:,} pairs got a second look, {1000 * seconds / max(n_looked, 1):.1f} ms each")
    return hit


def compare_copies(images):
    n_altered, *table = collect(images, random.Random(0))
    hits = [count_pairs(*table, column) for column in COLUMNS.values()]
    print("\n| found of the copies that were | " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * len(COLUMNS))
    for kind in ALTERATIONS:
        print(f"| {kind} | " + " | ".join(f"{hit[kind] / n_altered:.1%}" for hit in hits) + " |")
    for kind in ("false pairs among originals", "false pairs among all"):
        print(f"| {kind} | " + " | ".join(f"{hit[kind]:,}" for hit in hits) + " |")


def compare_cases(folder):
    for kind in ("same", "different"):
        files = sorted(folder.glob(f"{kind}/*-[ab].jpg"))
        contents = [path.read_bytes() for path in files]
        found = [np.frombuffer(compute_fingerprint(decode_image(content).rgb).hashes, np.uint8) for content in contents]
        hashes = np.array(found).reshape(-1, N_HASHES, HASH_BYTES)
        look = SecondLook(hashes, contents.__getitem__, mirrored=True)
        rows = np.arange(len(files))
        pairs = find_candidates(hashes, rows, rows, 48, len(files), mirrored=True)
        n_before, n_kept = 0, 0
        for first, second, distance in zip(*(part.tolist() for part in pairs), strict=True):
            if first // 2 == second // 2:
                similarity = look.measure(first, second)
                n_before += 1
                n_kept += distance <= SURE_DISTANCE or similarity >= MIN_SIMILARITY
                print(f"{kind} {files[first].name[:-6]}: distance {distance}, similarity {similarity:.2f}")
        print(f"{kind}: {n_before} of {len(files) // 2} pairs by the hashes alone, {n_kept} with the second look")


def main():
    match sys.argv[1:]:
        case ["products", *n_images]:
            from near_data import draw_product

            compare_copies([draw_product(seed) for seed in range(int((n_images or ["16"])[0]))])
        case ["cases", folder]:
            compare_cases(Path(folder))
        case [source, *min_side_px]:
            if min_side_px:
                fingerprints.MIN_SIDE_PX = int(min_side_px[0])
            compare_copies(read_images(Path(source)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
