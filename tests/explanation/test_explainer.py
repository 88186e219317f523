import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import ROOT, SHARED, draw_image, write_images
from relearn import cli
from relearn.errors import ImageError, IntegrityError, ParamsError
from relearn.explanation.explainer import Explainer
from relearn.features.shards import FeatureHashes
from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.export import build_model
from relearn.heads.fitted import LayeredHead
from relearn.inference.classifier import ClassifierRecord, hash_record, write_classifier
from relearn.inference.predictor import Predictor
from relearn.networks.extractor import Extractor, build_network
from relearn.params.networks import BUNDLED_SHA256, BUNDLED_WEIGHTS, NetworkParams
from relearn.params.pipeline import read_params
from relearn.runtime.backend import use_keras
from relearn.storage.files import hash_bytes, hash_file

pytestmark = pytest.mark.slow

BASE = read_params(ROOT / "params.yaml").extract.model_dump(include=NetworkParams.model_fields.keys())
MINI = {"weights": str(ROOT / BUNDLED_WEIGHTS), "weights_sha256": BUNDLED_SHA256, "layer": "block2_pool"}
CLASSES = {2: ["cat", "dog"], 3: ["ant", "bee", "cow"]}


def make_params(network, **changes):
    defaults = {"network": network, "layer": None, "image_size_px": 64, "batch_size": 4, "weights_sha256": None}
    return NetworkParams.model_validate(BASE | defaults | changes)


@cache
def build_extractor(params_json):
    return Extractor(NetworkParams.model_validate_json(params_json))


def draw_images(n_images):
    return [np.asarray(draw_image(seed, (70, 50))) for seed in range(n_images)]


def make_classifier(folder, params, n_classes=2, widths=(), **record_changes):
    """Write a classifier whose head has random coefficients, standardized on a few images; return the head."""
    extractor = build_extractor(params.model_dump_json())
    rows = np.array(list(extractor.compute_rows(extractor.prepare_image(Image.fromarray(i)) for i in draw_images(4))))
    rng = np.random.default_rng(0)
    sizes = [rows.shape[1], *widths, 1 if n_classes == 2 else n_classes]
    layers = [(rng.normal(size=(n_in, n_out)) / n_in**0.5, rng.normal(size=n_out)) for n_in, n_out in pairwise(sizes)]
    rows = rows.astype(np.float64)
    head = LayeredHead(rows.mean(axis=0), rows.std(axis=0) + 0.1, layers, has_probabilities=True)
    content = build_model(head, UNCALIBRATED, CLASSES[n_classes], rows.shape[1])
    record = ClassifierRecord(
        head_sha256=hash_bytes(content),
        classes=CLASSES[n_classes],
        head="dense" if widths else "logistic_regression",
        options={},
        scale=True,
        calibration="none",
        features=FeatureHashes(index_sha256="1" * 64, shards_sha256="2" * 64),
        extractor=extractor.record.model_dump() | record_changes,
    )
    write_classifier(folder, content, record)
    return head


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return cache(lambda network: write_perturbed_weights(tmp_path_factory.mktemp("own") / "x.weights.h5", network))


def write_perturbed_weights(path, network):
    """Write random weights of which all, biases and statistics of batch norm too, are away from their start."""
    rng = np.random.default_rng(0)
    params = make_params(network, weights="random")
    with use_keras("float32") as keras:
        model = build_network(keras, params)
        for weight in model.weights:
            values = np.asarray(weight)
            is_kernel = values.ndim > 1
            weight.assign(
                values * rng.uniform(0.8, 1.2, values.shape)
                if is_kernel
                else values + rng.uniform(0, 0.2, values.shape)
            )
        model.save_weights(path)
    return {"weights": str(path), "weights_sha256": hash_file(path)}


def check_sums(folder, head, images, n_classes):
    """Compare the map of each class with the score that the head computes from the features."""
    explainer = Explainer(folder)
    scores = head.compute_scores(explainer.features(images))
    wanted = np.hstack([-scores, scores]) if n_classes == 2 else scores - scores.mean(axis=1, keepdims=True)
    for number, label in enumerate(CLASSES[n_classes]):
        for explanation, score in zip(explainer.explain(images, [label] * len(images)), wanted[:, number], strict=True):
            assert (explanation.label, explanation.is_exact) == (label, True)
            assert explanation.grid.size > 1
            assert abs(explanation.base + explanation.grid.sum() - score) <= 1e-4 * max(1, abs(score))
            assert explanation.score == pytest.approx(explanation.base + explanation.grid.sum())
            assert np.abs(explanation.grid).max() > 1e-3
    return explainer


@pytest.mark.parametrize(
    ("network", "pooling", "n_classes"),
    [
        *[("mini_vgg", "avg", 3), ("mini_vgg", "flatten", 2), ("mini_vgg", "max", 3)],
        *[("vgg16", "avg", 2), ("vgg16", "flatten", 3), ("mobilenet_v2", "avg", 3)],
    ],
)
def test_maps_sum_to_the_scores(tmp_path, weights, network, pooling, n_classes):
    changes = MINI | {"image_size_px": 32} if network == "mini_vgg" else weights(network)
    params = make_params(network, pooling=pooling, **changes)
    head = make_classifier(tmp_path / "model", params, n_classes)
    check_sums(tmp_path / "model", head, draw_images(5), n_classes)


@pytest.mark.parametrize(
    ("network", "name", "pooling"),
    [
        ("mobilenet_v2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", "avg"),
        ("vgg16", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "flatten"),
    ],
)
def test_maps_of_photos_sum_to_the_scores(tmp_path, shared, network, name, pooling):
    path = SHARED / "weights" / name
    weights = {"weights": str(path), "weights_sha256": hash_file(path)}
    params = make_params(network, pooling=pooling, image_size_px=224, **weights)
    head = make_classifier(tmp_path / "model", params)
    photos = sorted((shared / "data" / "Food-5K" / "evaluation").rglob("*.jpg"))[:3]
    assert photos
    explainer = check_sums(tmp_path / "model", head, photos, 2)
    assert explainer.explain(photos[:1])[0].grid.shape == (7, 7)


@pytest.mark.parametrize("pooling", ["avg", "flatten"])
def test_what_changes_in_a_corner_changes_the_map_there(tmp_path, pooling):
    make_classifier(tmp_path / "model", make_params("mini_vgg", pooling=pooling, **MINI | {"image_size_px": 32}))
    image = np.asarray(draw_image(0, (32, 32)))
    changed = image.copy()
    changed[:4, -4:] = 255 - changed[:4, -4:]
    before, after = (found.grid for found in Explainer(tmp_path / "model").explain([image, changed], ["cat"] * 2))
    rows, columns = np.nonzero(np.abs(before - after) > 1e-6)
    assert set(rows) <= set(range(4))
    assert set(columns) <= set(range(4, 8))
    assert (0, 7) in zip(rows, columns, strict=True)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat") / "model"
    make_classifier(folder, make_params("mini_vgg", pooling="flatten", **MINI | {"image_size_px": 32}), 3)
    return folder


def test_flatten_needs_no_network(flat, monkeypatch):
    images = draw_images(3)
    predictor = Predictor(flat)
    features = predictor.features(images)
    wanted = Explainer(flat).explain(images)
    monkeypatch.setattr("relearn.inference.predictor.Extractor", None)
    explainer = Explainer(flat)
    assert not explainer.needs_network
    found = explainer.explain(["gone.png"] * 3, features=features)
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.grid, other.grid)
        assert one._replace(grid=None) == other._replace(grid=None)
    table = predictor.predict(images)
    assert [one.label for one in found] == list(table["label"])
    assert [one.probability for one in found] == list(table[CLASSES[3]].to_numpy().max(axis=1))


def test_a_record_without_the_shape_of_the_map_is_read(flat, tmp_path):
    record = json.loads((flat / "classifier.json").read_text())
    del record["record_sha256"], record["extractor"]["feature_map"]
    for name, content in {
        "head.onnx": (flat / "head.onnx").read_bytes(),
        "classifier.json": json.dumps({"record_sha256": hash_record(record), **record}).encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
    images = draw_images(2)
    older = Explainer(tmp_path)
    assert older.needs_network
    for one, other in zip(older.explain(images), Explainer(flat).explain(images), strict=True):
        assert np.array_equal(one.grid, other.grid)


def test_a_map_of_another_size_than_the_features_is_refused(tmp_path):
    params = make_params("mini_vgg", pooling="flatten", **MINI | {"image_size_px": 32})
    make_classifier(tmp_path / "model", params, feature_map=[8, 8, 95])
    with pytest.raises(IntegrityError, match=r"feature_map of 6,144 features with pooling flatten, got 8 x 8 x 95"):
        Explainer(tmp_path / "model")


def test_a_head_with_a_hidden_layer_gets_an_estimate(tmp_path):
    params = make_params("mini_vgg", pooling="avg", **MINI | {"image_size_px": 32})
    make_classifier(tmp_path / "model", params, 3, widths=(8,))
    explainer = Explainer(tmp_path / "model")
    images = draw_images(2)
    table = Predictor(tmp_path / "model").predict(images)
    for number, found in enumerate(explainer.explain(images, [None, "bee"])):
        label = ["ant", "bee", "cow"][int(table[["ant", "bee", "cow"]].to_numpy()[number].argmax())]
        assert found.label == ("bee" if number else label)
        assert not found.is_exact
        assert found.text.endswith(" (an estimate)")
        assert found.grid.shape == (7, 7)
        assert found.score == pytest.approx(float(np.log(table[found.label][number])), rel=1e-5)
        pixels = explainer.prepare(images[number]).copy()
        pixels[:5, :5] = pixels.mean(axis=(0, 1)).round()
        hidden = Predictor(tmp_path / "model").predict([pixels])[found.label][0]
        assert found.grid[0, 0] == pytest.approx(found.score - float(np.log(hidden)), abs=1e-5)


def test_load_gives_what_explains(flat):
    import relearn

    images = draw_images(2)
    found = relearn.load(flat).explain(images, ["ant", None])
    assert found[0].label == "ant"
    assert np.array_equal(found[0].grid, Explainer(flat).explain(images, ["ant", None])[0].grid)


def test_wrong_arguments_are_named(flat):
    explainer = Explainer(flat)
    image = draw_images(1)[0]
    with pytest.raises(ParamsError, match="labels: wanted None or one of ant, bee, cow, got 'dog'"):
        explainer.explain([image], ["dog"])
    with pytest.raises(ParamsError, match="labels: wanted one for each of 2 images, got 1"):
        explainer.explain([image, image], ["ant"])
    with pytest.raises(ParamsError, match=r"features: wanted an array of shape \(1, 6144\), got \(1, 5\)"):
        explainer.explain([image], features=np.zeros((1, 5)))
    with pytest.raises(ImageError, match=r"images\[1\] \(gone\.png\): "):
        explainer.explain([image, "gone.png"])
    with pytest.raises(ImageError, match=r"^not an image"):
        explainer.prepare(b"text")


def test_command_explains_with_a_classifier(flat, workspace):
    write_images(workspace, ["0.png", "1.png"])
    answer = CliRunner().invoke(cli.app, ["explain", "0.png", "1.png", "--model", str(flat), "-o", "page.html"])
    assert answer.exit_code == 0, answer.output
    wanted = Explainer(flat).explain(["0.png", "1.png"])
    for line, found in zip(answer.stdout.splitlines(), wanted, strict=False):
        assert line.endswith(f"{found.label}  {found.probability:6.1%}  {found.text}")
    assert (workspace / "page.html").read_text().count("<img ") == 4
