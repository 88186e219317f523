"""What an exported model is worth: every network beside keras, and one classifier in float32 and int8.

Usage:
    python benchmarks/export.py networks [NETWORK ...]
    python benchmarks/export.py speed MODEL [MODEL ...]

networks  For each of `keras.applications`, with random weights: the size of the model, the greatest difference of its
          features from those of `extract`, relative to the largest feature, whether an image gets the same bits alone
          and in a batch, and the seconds for the conversion and for the check that every reader makes. A table in
          Markdown; a network that cannot be exported says why.
speed     The milliseconds of CPU for one image, by exported folders in turn, on one thread.
"""

import gc
import sys
import time
from pathlib import Path

import numpy as np

from relearn.errors import RelearnError
from relearn.exporting.model import join_model, serialize_model
from relearn.exporting.network import convert_network
from relearn.heads.calibration import Calibration
from relearn.heads.export import build_model
from relearn.heads.fitted import LayeredHead
from relearn.inference.classifier import open_session
from relearn.inference.exported import MODEL, ExportedModel
from relearn.inference.model_screening import IMAGE, check_model
from relearn.networks.extractor import Extractor
from relearn.params.networks import NETWORKS, NetworkParams

SIZES_PX = {"mini_vgg": 32, "nasnet_large": 331, "nasnet_mobile": 224, "xception": 107}
SIZES_PX |= dict.fromkeys(("inception_v3", "inception_resnet_v2"), 139)
CLASSES = ["a", "b", "c"]
N_RUNS = 50


def compare_network(network):
    size_px = SIZES_PX.get(network, 96)
    params = NetworkParams(
        network=network,
        weights="random",
        weights_sha256=None,
        seed=1,
        layer=None,
        pooling="avg",
        image_size_px=size_px,
        resize_filter="bilinear",
        batch_size=2,
        precision="float32",
        feature_dtype="float32",
        jpeg_draft=False,
    )
    extractor = Extractor(params)
    images = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3)).astype(np.uint8)
    wanted = extractor.compute_features(images)
    n = extractor.n_features
    weights = np.random.default_rng(1).normal(size=(n, len(CLASSES))) / np.sqrt(n)
    head = LayeredHead(wanted.mean(0, np.float64), np.full(n, float(wanted.std())), [(weights, np.zeros(3))], True)
    start = time.perf_counter()
    graph = convert_network(extractor.record, any_size=False)
    head = build_model(head, Calibration("none", []), CLASSES, n)
    content = serialize_model(join_model(graph, head, n, size_px, has_features=True))
    converted = time.perf_counter()
    check_model(content, CLASSES, n, size_px, has_features=True)
    checked = time.perf_counter()
    session = open_session(content, Path(network), 2)
    got = session.run(["features", "probabilities"], {IMAGE: images})
    alone = session.run(["features", "probabilities"], {IMAGE: images[:1]})
    is_same = all(np.array_equal(one[0], both[0]) for one, both in zip(alone, got, strict=True))
    return (
        f"{len(content) / 1e6:,.1f} MB | {np.abs(got[0] - wanted).max() / np.abs(wanted).max():.1e} | "
        f"{'yes' if is_same else 'no'} | {converted - start:.1f} s | {checked - converted:.1f} s"
    )


def print_networks(names):
    import keras

    print("| network | size | difference | same alone | conversion | check |\n| --- | --- | --- | --- | --- | --- |")
    for name in names or NETWORKS:
        try:
            print(f"| {name} | {compare_network(name)} |", flush=True)
        except RelearnError as error:
            print(f"| {name} | {error} | | | | |", flush=True)
        keras.backend.clear_session()
        gc.collect()


def print_speed(folders):
    models = [ExportedModel(Path(folder), n_threads=1) for folder in folders]
    seconds = [[] for _ in models]
    for number in range(N_RUNS):
        for model, taken in zip(models, seconds, strict=True):
            size_px = model.record.image_size_px
            image = np.random.default_rng(number).integers(0, 256, (size_px, size_px, 3)).astype(np.uint8)
            start = time.process_time()
            model.predict_probabilities([image])
            taken.append(time.process_time() - start)
    for folder, taken in zip(folders, seconds, strict=True):
        n_bytes = (Path(folder) / MODEL).stat().st_size
        print(f"{folder}: {n_bytes / 1e6:.1f} MB, {np.median(taken) * 1e3:.1f} ms an image")


if __name__ == "__main__":
    {"networks": print_networks, "speed": print_speed}[sys.argv[1]](sys.argv[2:])
