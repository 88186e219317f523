"""Whether `relearn similar` finds the source of an altered copy, and what it takes for many images.

Usage: python benchmarks/similar.py copies SOURCE WEIGHTS    MobileNetV2 `avg` with the weights of a file
       python benchmarks/similar.py size [N_IMAGES]          random features in a temporary folder; one query

`copies` alters up to 400 images of SOURCE (a folder, zip or tar) as `near_duplicates.py` does, with the same seed, and
looks for each copy's first neighbor among all images of SOURCE. `size` measures one query in a process of its own:
reading and checking all files included.
"""

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from near_duplicates import ALTERATIONS, N_ALTERED, read_images

from relearn import paths
from relearn.commands.similar import describe_similar, find_similar
from relearn.dataset.manifest import ManifestRow
from relearn.features.neighbors import find_neighbors
from relearn.features.shards import write_features
from relearn.networks.extractor import Extractor
from relearn.params.networks import NetworkParams
from relearn.storage.files import hash_file, write_csv, write_folder

N_FEATURES = 1280


def make_extractor(weights):
    return Extractor(
        NetworkParams(
            network="mobilenet_v2",
            weights=str(weights),
            weights_sha256=hash_file(weights),
            seed=0,
            layer=None,
            pooling="avg",
            image_size_px=224,
            resize_filter="bilinear",
            batch_size=32,
            precision="float32",
            feature_dtype="float32",
            jpeg_draft=False,
        )
    )


def make_manifest(n_images):
    return [
        ManifestRow(f"training/a/{n}.jpg", "training", "a", f"{n * 16**64 // n_images:064x}", 1, 1, 1, "RGB", "JPEG")
        for n in range(n_images)
    ]


def write_rows(folder, manifest, read):
    record = {"network": "mobilenet_v2", "n_features": N_FEATURES, "feature_dtype": "float32"}
    write_features(folder, manifest, read, record)


def find_sources(source, weights):
    images = read_images(source)
    rng = random.Random(0)
    altered = sorted(rng.sample(range(len(images)), min(N_ALTERED, len(images))))
    extractor = make_extractor(weights)
    rows = list(extractor.compute_rows(map(extractor.prepare_image, images)))
    manifest = make_manifest(len(images))
    by_hash = dict(zip([row.sha256 for row in manifest], rows, strict=True))
    origins, kinds = zip(*((number, kind) for kind in ALTERATIONS for number in altered), strict=True)
    copies = (
        extractor.prepare_image(ALTERATIONS[kind](images[number], rng))
        for kind, number in zip(kinds, origins, strict=True)
    )
    queries = np.array(list(extractor.compute_rows(copies)))
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), manifest, by_hash.__getitem__)
        start = time.monotonic()
        found = find_neighbors(Path(folder), manifest, queries, 1)
        seconds = time.monotonic() - start
    hits = Counter()
    for kind, origin, (neighbor,) in zip(kinds, origins, found, strict=True):
        hits[kind] += neighbor.image.sha256 == manifest[origin].sha256
    print(f"{len(images)} images, {len(altered)} altered; {len(queries):,} queries in {seconds:.1f} s\n")
    print("| copies that were | first neighbor is the source |\n| --- | ---: |")
    for kind in ALTERATIONS:
        print(f"| {kind} | {hits[kind] / len(altered):.1%} |")
    print(f"| all | {hits.total() / len(queries):.2%} |")


def measure_size(n_images):
    manifest = make_manifest(n_images)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_csv(paths.MANIFEST, ManifestRow._fields, manifest)
        with write_folder(paths.FEATURES) as partial:
            write_rows(partial, manifest, lambda _: rng.standard_normal(N_FEATURES, np.float32))
        n_bytes = sum(path.stat().st_size for path in paths.FEATURES.iterdir())
        print(f"{n_images:,} images of {N_FEATURES:,} features, {n_bytes / 1e9:.2f} GB", flush=True)
        subprocess.run([sys.executable, __file__, "search", manifest[n_images // 2].sha256], check=True)
        os.chdir("/")


def search(sha256):
    start = time.monotonic()
    print(*describe_similar(find_similar(sha256, 5)), sep="\n")
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{seconds:.1f} s, {peak:.2f} GB of memory at most")


def main():
    match sys.argv[1:]:
        case ["copies", source, weights]:
            find_sources(Path(source), Path(weights))
        case ["size", *n_images]:
            measure_size(int((n_images or ["1000000"])[0]))
        case ["search", sha256]:
            search(sha256)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
