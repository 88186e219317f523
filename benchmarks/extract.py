"""How fast features come, compared with a tutorial's script, the network alone and the decoding alone.

Usage: python benchmarks/extract.py pace IMAGES [NETWORK] [WEIGHTS] [N_IMAGES] [N_ROUNDS]
       python benchmarks/extract.py growth IMAGES [NETWORK] [WEIGHTS] [PRECISION] [N_IMAGES ...]
       python benchmarks/extract.py precision IMAGES NETWORK WEIGHTS

IMAGES is a folder of photos. `pace` gives each way the same images in turn, so that what else the machine does hits all
alike, and prints the medians over the rounds. `growth` runs the stage on sets of so many images (copies with other
bytes), then once more, then with 1 % new ones. `precision` compares the features of bfloat16 with those of float32.
"""

import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np

from relearn import paths
from relearn.dataset.manifest import ManifestRow, write_manifest
from relearn.features.computation import compute_missing, make_reader, read_prepared
from relearn.features.shards import write_features
from relearn.features.store import FeatureStore
from relearn.features.views import Input
from relearn.networks.extractor import Extractor
from relearn.networks.recipe import describe_recipe
from relearn.params.networks import ExtractParams
from relearn.params.pipeline import read_params
from relearn.runtime.threads import map_ahead
from relearn.storage.files import hash_bytes, hash_file, write_json

ROOT = Path(__file__).resolve().parent.parent
N_IN_BATCH = 32


def make_params(network, weights, precision):
    block = read_params(ROOT / "params.yaml").extract.model_dump()
    block |= {"network": network, "layer": None, "image_size_px": 224, "batch_size": N_IN_BATCH, "precision": precision}
    block["pooling"] = "flatten" if network.startswith("vgg") else "avg"
    block |= {"weights": weights, "weights_sha256": None if weights == "random" else hash_file(Path(weights))}
    return ExtractParams.model_validate(block)


def place(content, number):
    """Put an image into the data set of the current folder and return its row."""
    row = ManifestRow(
        f"training/a/{number:06}.jpg", "training", "a", hash_bytes(content), len(content), 1, 1, "RGB", "JPEG"
    )
    path = paths.DATASET / row.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return row


def list_photos(folder):
    return sorted(path for path in Path(folder).resolve().rglob("*.jpg"))


def extract_as_in_a_tutorial(model, rows):
    """Load, preprocess and predict 32 images at a time, and write every number as text."""
    import keras
    from keras.applications import imagenet_utils

    with Path("tutorial.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        for start in range(0, len(rows), N_IN_BATCH):
            batch = []
            for row in rows[start : start + N_IN_BATCH]:
                image = keras.utils.img_to_array(keras.utils.load_img(paths.DATASET / row.path, target_size=(224, 224)))
                batch.append(imagenet_utils.preprocess_input(np.expand_dims(image, 0)))
            features = model.predict(np.vstack(batch), batch_size=N_IN_BATCH, verbose=0)
            writer.writerows(features.reshape(len(features), -1).tolist())


def extract_as_we_do(extractor, params, rows):
    """Decode, compute, store and assemble, as the stage does."""
    shutil.rmtree("ours", ignore_errors=True)
    record = extractor.record.model_dump()
    with FeatureStore(Path("ours/features.sqlite")) as store:
        feature_set = store.open_feature_set(describe_recipe(params))
        for _ in compute_missing(extractor, list(map(Input, rows)), feature_set):
            pass
        Path("ours/features").mkdir()
        write_features(
            Path("ours/features"), sorted(rows, key=lambda row: row.sha256), make_reader(feature_set, record), record
        )


def run_network(extractor, batch, n_images):
    for _ in range(n_images // N_IN_BATCH):
        extractor._run(batch, N_IN_BATCH)


def decode(extractor, rows):
    for _ in map_ahead(lambda row: read_prepared(extractor, row), rows, 2 * N_IN_BATCH):
        pass


def measure(function, *arguments):
    """Return seconds of the clock, and of all cores together."""
    wall, cores = time.monotonic(), time.process_time()
    function(*arguments)
    return time.monotonic() - wall, time.process_time() - cores


def measure_pace(folder, network, weights, n_images, n_rounds):
    import keras

    all_params = {name: make_params(network, weights, name) for name in ("float32", "bfloat16")}
    ours = {name: Extractor(params) for name, params in all_params.items()}
    draft = Extractor(all_params["float32"].model_copy(update={"jpeg_draft": True}))
    application = {"vgg16": "VGG16", "mobilenet_v2": "MobileNetV2", "efficientnet_b0": "EfficientNetB0"}[network]
    model = getattr(keras.applications, application)(
        weights=None if weights == "random" else weights, include_top=False
    )
    photos = list_photos(folder)
    rows = [place(path.read_bytes(), number) for number, path in enumerate(photos[: n_images * n_rounds])]
    batches = {
        name: extractor.stack_images([read_prepared(extractor, row) for row in rows[:N_IN_BATCH]])[0]
        for name, extractor in ours.items()
    }
    ways = {
        "tutorial": lambda part: extract_as_in_a_tutorial(model, part),
        "ours, float32": lambda part: extract_as_we_do(ours["float32"], all_params["float32"], part),
        "ours, bfloat16": lambda part: extract_as_we_do(ours["bfloat16"], all_params["bfloat16"], part),
        "network alone, float32": lambda part: run_network(ours["float32"], batches["float32"], len(part)),
        "network alone, bfloat16": lambda part: run_network(ours["bfloat16"], batches["bfloat16"], len(part)),
        "decoding alone": lambda part: decode(ours["float32"], part),
        "decoding alone, jpeg_draft": lambda part: decode(draft, part),
    }
    for way in ways.values():
        way(rows[:N_IN_BATCH])
    seconds = {name: [] for name in ways}
    cores = {name: [] for name in ways}
    for number in range(n_rounds):
        part = rows[number * n_images : (number + 1) * n_images]
        for name, way in ways.items():
            wall, used = measure(way, part)
            seconds[name].append(wall / len(part))
            cores[name].append(used / len(part))
    print(f"{network}, weights {weights.rsplit('/', 1)[-1]}, {n_rounds} rounds of {n_images} images")
    print(f"peak memory of all that stands below, in one process: {getrusage(RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB\n")
    print("| way | images/s | core seconds an image | times the tutorial's pace |")
    print("| --- | ---: | ---: | ---: |")
    for name in ways:
        pace = 1 / statistics.median(seconds[name])
        ratio = statistics.median(t / s for t, s in zip(seconds["tutorial"], seconds[name], strict=True))
        print(f"| {name} | {pace:.1f} | {statistics.median(cores[name]):.3f} | {ratio:.2f} |")
    for precision in ours:
        bound = [
            max(n, d) for n, d in zip(seconds[f"network alone, {precision}"], seconds["decoding alone"], strict=True)
        ]
        share = statistics.median(b / s for b, s in zip(bound, seconds[f"ours, {precision}"], strict=True))
        print(f"\n{precision}: {share:.0%} of the slower of network alone and decoding alone", end="")
    print()


def measure_growth(folder, network, weights, precision, counts):
    photos = [path.read_bytes() for path in list_photos(folder)]
    params = make_params(network, weights, precision)
    for n_images in counts:
        shutil.rmtree("data", ignore_errors=True)
        shutil.rmtree(".relearn", ignore_errors=True)
        rows = [place(photos[n % len(photos)] + n.to_bytes(4, "big"), n) for n in range(n_images)]
        grown = [
            place(photos[n % len(photos)] + b"new" + n.to_bytes(4, "big"), n_images + n) for n in range(n_images // 100)
        ]
        for name, part in (("all new", rows), ("again", rows), ("1 % new", rows + grown)):
            write_manifest(paths.MANIFEST, part)
            write_json(paths.VALIDATION_REPORT, {"passed": True, "manifest_sha256": hash_file(paths.MANIFEST)})
            write_json(Path("params.json"), params.model_dump())
            start = time.monotonic()
            command = [sys.executable, "-c", WRAPPER, sys.executable, "-c", STAGE]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = time.monotonic() - start
            paces = [line for line in answer.stderr.splitlines() if "images/s" in line and " images in " in line]
            print(
                f"{n_images:,} images, {name}: {seconds:.1f} s in all, peak {float(answer.stdout):.2f} GB; "
                f"{(paces or ['nothing computed'])[-1]}",
                flush=True,
            )


# The stage with the parameters of params.json, and around it a process of its own for each run: the peak of memory is
# that of all children together.
STAGE = """
import json, logging
from pathlib import Path
from relearn.stages import extract
from relearn.params.networks import ExtractParams
from relearn.storage.files import write_json
write_json(Path("models/network/network.json"), {"tuned": False, "reason": "finetune.epochs is 0"})
logging.basicConfig(level=logging.INFO, format="%(message)s")
extract.run(ExtractParams.model_validate(json.load(open("params.json"))))
"""
WRAPPER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6)
"""


def compare_precisions(folder, network, weights):
    rows = [place(path.read_bytes(), number) for number, path in enumerate(list_photos(folder))]
    features = {}
    for precision in ("float32", "bfloat16"):
        extractor = Extractor(make_params(network, weights, precision))
        features[precision] = np.array(
            list(extractor.compute_rows(map_ahead(partial(read_prepared, extractor), rows, 64)))
        )
    one, other = features["float32"].astype(np.float64), features["bfloat16"].astype(np.float64)
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    print(f"{network}: {len(rows)} images, cosine a row: lowest {cosine.min():.4f}, median {np.median(cosine):.4f}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        command, images, *rest = sys.argv[1:] or sys.exit(__doc__)
        images = str(Path(images).resolve())
        network, weights = (rest + ["vgg16", "random"][len(rest) :])[:2]
        weights = weights if weights == "random" else str(Path(weights).resolve())
        os.chdir(folder)
        match command:
            case "pace":
                n_images, n_rounds = (int(n) for n in (rest[2:] + ["64", "5"][len(rest[2:]) :])[:2])
                measure_pace(images, network, weights, n_images, n_rounds)
            case "growth":
                counts = [int(n) for n in rest[3:]] or [1000, 2000, 4000, 8000]
                measure_growth(images, network, weights, (rest[2:] or ["bfloat16"])[0], counts)
            case "precision":
                compare_precisions(images, network, weights)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
