"""What the gate costs: nothing twice, a million rows, a hundred thousand hashes.

Usage: python benchmarks/gate.py restructure SOURCE [LAYOUT]   a folder: the first time, again, and with 1 % new files
       python benchmarks/gate.py suite [N_ROWS]                the stage on a manifest that passes, and one that fails
       python benchmarks/gate.py search SOURCE [N_HASHES]      near duplicates among the hashes of the images of SOURCE
       python benchmarks/gate.py groups SOURCE [N_IMAGES]      groups of near duplicates among the images of SOURCE
"""

import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from relearn import paths
from relearn.dataset import inspections
from relearn.dataset.assignments import write_assignments
from relearn.dataset.corrections import Corrected
from relearn.dataset.manifest import SPLITS, Exclusion, hash_tables
from relearn.dataset.near_duplicates import SecondLook
from relearn.dataset.near_groups import find_near_groups
from relearn.dataset.similarity import draw_gray
from relearn.dataset.sources import iterate_source
from relearn.errors import ImageError
from relearn.gates import near_duplicates
from relearn.images.decoding import decode_image
from relearn.images.fingerprints import HASH_BYTES, N_HASHES, compute_fingerprint
from relearn.params.data import NearDuplicates
from relearn.params.pipeline import read_params
from relearn.runtime.threads import count_threads, map_ahead
from relearn.stages.restructure import run
from relearn.storage.files import write_csv, write_json

ROOT = Path(__file__).resolve().parent.parent


def measure(function, *arguments):
    start = time.monotonic()
    result = function(*arguments)
    return time.monotonic() - start, result


def measure_restructure(source, layout):
    inspections.SETTLED_SECONDS = -3600.0  # as if the files were there since yesterday
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        shutil.copytree(source, "source")
        changes = {"source": "source", "layout": layout, "corrections": str(ROOT / "data" / "corrections.csv")}
        params = read_params(ROOT / "params.yaml").restructure.model_copy(update=changes)
        files = sorted(path for path in Path("source").rglob("*") if path.is_file())
        first, _ = measure(run, params)
        again, _ = measure(run, params)
        alone, _ = measure(run, params.model_copy(update={"group_by": "none"}))
        for number, path in enumerate(files[:: len(files) // max(1, len(files) // 100)]):
            path.with_name(f"{path.stem}x{number}{path.suffix}").write_bytes(
                path.read_bytes() + bytes([0, number % 256])
            )
        grown, _ = measure(run, params)
    print(
        f"{len(files)} files, {count_threads()} threads: first {first:.1f} s ({len(files) / first:.0f} images/s), ",
        end="",
    )
    print(f"again {again:.1f} s ({first / again:.0f} times as fast; {alone:.1f} s without groups), ", end="")
    print(f"with 1 % new {grown:.1f} s")


def write_data(n_rows, is_good):
    """Write a manifest of so many rows; a bad one has every image too small, in a wrong mode and there twice."""
    rng = np.random.default_rng(0)
    splits = np.sort(rng.choice(3, n_rows, p=[0.6, 0.2, 0.2]))
    labels = rng.integers(0, 100, n_rows)
    numbers = np.arange(n_rows) if is_good else np.arange(n_rows) // 2 * 7 % (n_rows // 3)
    names = [
        f"{SPLITS[split]}/class {label:03}/{n:08}.jpg"
        for n, (split, label) in enumerate(zip(splits, labels, strict=True))
    ]
    manifest = pd.DataFrame(
        {
            "path": names,
            "split": [SPLITS[split] for split in splits],
            "label": [f"class {label:03}" for label in labels],
            "sha256": [f"{number:064x}" for number in numbers],
            "bytes": "1000",
            "width_px": "640" if is_good else "4",
            "height_px": "480" if is_good else "99999",
            "mode": "RGB" if is_good else "YCbCr",
            "format": "JPEG",
        }
    ).astype("str")
    sightings = manifest[["path"]].assign(source_path=manifest["path"], contrast="50.0" if is_good else "0.0")
    paths.MANIFEST.parent.mkdir()
    manifest.to_csv(paths.MANIFEST, index=False)
    sightings.to_csv(paths.SIGHTINGS, index=False)
    np.save(paths.HASHES, np.zeros((n_rows, N_HASHES, HASH_BYTES), np.uint8))
    write_csv(paths.EXCLUDED, Exclusion._fields, [])
    write_csv(paths.CORRECTED, Corrected._fields, [])
    write_assignments(paths.SPLITS, {})
    write_json(paths.SOURCE, {"source": "source", "n_files": n_rows, "lost_classes": {}, **hash_tables()})


def measure_suite(n_rows, kind):
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("params.yaml", "expectations.json"):
            shutil.copy(ROOT / name, folder)
        write_data(n_rows, kind == "good")
        command = [sys.executable, "-m", "relearn", "validate"]
        seconds, answer = measure(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{n_rows:,} rows, {kind}: {seconds:.1f} s, peak {peak:.2f} GB; {answer.stderr.splitlines()[0]}")


def hash_images(source, n_images, angles):
    """Return the hashes of the images of a source, turned by each of the angles, and their small gray squares."""

    def compute(content):
        try:
            rgb = decode_image(content).rgb
        except ImageError:
            return []
        return [(compute_fingerprint(image).hashes, encode_png(image)) for image in map(rgb.rotate, angles)]

    contents = (file.read() for file in iterate_source(source) if file.refusal is None)
    seconds, found = measure(list, map_ahead(compute, contents, 64))
    rows = [row for angle in zip(*filter(None, found), strict=True) for row in angle if row[0]][:n_images]
    table = np.frombuffer(b"".join(hashes for hashes, _ in rows), np.uint8).reshape(-1, N_HASHES, HASH_BYTES)
    print(f"{len(found):,} images decoded and hashed in {seconds:.0f} s")
    return table, [square for _, square in rows]


def measure_search(source, n_hashes):
    table, squares = hash_images(source, n_hashes, (0, 180))
    splits = np.random.default_rng(0).choice(SPLITS, len(table), p=[0.6, 0.2, 0.2])
    order = np.argsort(splits, kind="stable")
    images, table = pd.DataFrame({"path": order.astype("str"), "split": splits[order], "sha256": ""}), table[order]
    near_duplicates.read_image = lambda path, _: squares[int(path)]
    for mirrored, sure in ((False, 64), (True, 64), (True, near_duplicates.SURE_DISTANCE)):
        near_duplicates.SURE_DISTANCE = sure
        rule = NearDuplicates(severity="warn", max_distance=48, mirrored=mirrored)
        seconds, marked = measure(near_duplicates.mark_near_duplicates, images, table, rule)
        print(
            f"{len(table):,} images, mirrored {mirrored}, second look beyond {sure} bits: {seconds:.1f} s, "
            f"{marked['has_twin_split'].sum():,} with a near duplicate"
        )


def measure_groups(source, n_images):
    table, squares = hash_images(source, n_images, (0,))
    look = SecondLook(table, squares.__getitem__, mirrored=True)
    seconds, centers = measure(find_near_groups, table, look)
    sizes = np.bincount(centers)
    print(
        f"{len(table):,} images: {seconds:.1f} s, {(sizes > 1).sum():,} groups of {sizes[sizes > 1].sum():,} images, "
        f"the largest of {sizes.max():,}"
    )


def encode_png(image):
    buffer = io.BytesIO()
    draw_gray(image).save(buffer, "PNG")
    return buffer.getvalue()


def main():
    match sys.argv[1:]:
        case ["restructure", source, *layout]:
            measure_restructure(Path(source).resolve(), (layout or ["class_folders"])[0])
        case ["suite", *n_rows]:
            for kind in ("good", "bad"):
                measure_suite(int((n_rows or ["1000000"])[0]), kind)
        case ["groups", source, *n_images]:
            measure_groups(Path(source), int((n_images or ["50000"])[0]))
        case ["search", source, *n_hashes]:
            measure_search(Path(source), int((n_hashes or ["100000"])[0]))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
