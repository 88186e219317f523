import csv
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import ROOT, VGG16, draw_image, encode_image, read_yaml, write_images
from relearn import cli, paths
from relearn.dataset.manifest import read_manifest
from relearn.errors import ImageError, IntegrityError, NetworkError
from relearn.features.shards import hash_features, read_features
from relearn.inference import predictor as predict
from relearn.inference.predictor import (
    Prediction,
    Predictions,
    build_extractor,
    find_files,
    predict_files,
    print_predictions,
)
from relearn.networks.extractor import Extractor, ExtractorRecord
from relearn.params import Params
from relearn.stages import evaluate, extract, restructure, train
from relearn.storage.files import hash_file, read_csv, read_json, write_json

CLASSES = ["cat", "dog"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder where every stage but the gates has run over 26 small images."""
    folder = tmp_path_factory.mktemp("trained")
    content = read_yaml(ROOT / "params.yaml")
    content["restructure"] |= {"source": "images", "layout": "split_class_folders"}
    content["extract"] |= VGG16 | {"batch_size": 8}
    content["train"]["logistic_regression"] |= {"C": 0.01}
    content["evaluate"] |= {"n_resamples": 100}
    params = Params.model_validate(content)
    for number, (split, count) in enumerate({"training": 7, "validation": 3, "evaluation": 3}.items()):
        names = [f"{split}/{label}/{n}.png" for label in CLASSES for n in range(count)]
        write_images(folder / "images", names, 100 * number)
    before = Path.cwd()
    os.chdir(folder)
    try:
        restructure.run(params.restructure)
        write_json(paths.VALIDATION_REPORT, {"passed": True, "manifest_sha256": hash_file(paths.MANIFEST)})
        extract.run(params.extract)
        write_json(paths.VERIFICATION_REPORT, {"passed": True, **hash_features(paths.FEATURES)})
        train.run(params.train)
        evaluate.run(params.evaluate)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def read_record():
    return ExtractorRecord.model_validate(read_json(paths.CLASSIFIER / "classifier.json")["extractor"])


def relearn(*arguments):
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)])


@pytest.mark.slow
def test_features_are_those_of_extract_bit_for_bit(here):
    record = read_record()
    extractor = build_extractor(record, None)
    rows = read_manifest(paths.MANIFEST)[::-1]
    features = np.array(list(extractor.compute_rows(extract.read_prepared(extractor, row) for row in rows)))[::-1]
    stored = np.concatenate(
        [read_features(paths.FEATURES, s).features for s in ("training", "validation", "evaluation")]
    )
    assert features.tobytes() == stored.tobytes()


@pytest.mark.slow
def test_predictions_are_those_of_evaluate(here):
    expected = read_csv(
        paths.PREDICTIONS, ("path", "sha256", "label", "predicted", "probability_cat", "probability_dog")
    )
    given = list(csv.reader(io.StringIO(relearn(paths.DATASET / "evaluation", "--csv").stdout)))
    assert given[0] == ["path", "label", "probability_cat", "probability_dog"]
    by_path = {row[0]: row[1:] for row in given[1:]}
    assert len(by_path) == len(expected) == 6
    for path, _, _, predicted, *probabilities in expected:
        assert by_path[str(paths.DATASET / path)] == [predicted, *probabilities]


@pytest.mark.slow
def test_only_the_classifier_is_read(here, tmp_path, monkeypatch):
    shutil.copytree(paths.CLASSIFIER, tmp_path / "elsewhere" / "model")
    (tmp_path / "elsewhere" / "x.png").write_bytes(encode_image(draw_image(7)))
    monkeypatch.chdir(tmp_path / "elsewhere")
    answer = relearn("x.png", "--model", "model", "--json")
    assert answer.exit_code == 0
    (row,) = json.loads(answer.stdout)
    assert row["path"] == "x.png"
    assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    assert set(row["probabilities"]) == set(CLASSES)


@pytest.mark.slow
def test_unreadable_files_come_last_and_the_rest_is_answered(here, caplog):
    Path("text.png").write_text("text")
    Path("cut.jpg").write_bytes(encode_image(draw_image(1), "JPEG")[:-30])
    answer = relearn("text.png", "images/training/cat/0.png", "nothing*.png", "cut.jpg", "gone.png")
    assert answer.exit_code == 1
    (line,) = answer.stdout.splitlines()
    assert line.split()[:2] in (["images/training/cat/0.png", name] for name in CLASSES)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("relearn")]
    assert [message.split(":")[0] for message in said] == [
        "nothing*.png",
        "gone.png",
        "text.png",
        "cut.jpg",
    ]
    assert "text.png: not an image (BMP, GIF, JPEG, PNG, TIFF, WEBP are read)" in caplog.text
    assert "cut.jpg: damaged JPEG file" in caplog.text


HOSTILE = Predictions(
    ["=cmd|'/C calc'!A0", 'a\u202e,"b'],
    [
        Prediction("+1\x1b[2J.png", 'a\u202e,"b', [0.25, 0.75]),
        Prediction("-x\udcff.png", "=cmd|'/C calc'!A0", [1.0, 0.0]),
    ],
    [("\x9b31m.png", "no such file")],
)


def test_csv_is_exact_for_programs(monkeypatch):
    """Also a cell that a spreadsheet would run: a mark before it would be another name."""
    shown = io.StringIO(newline="")
    monkeypatch.setattr(sys, "stdout", shown)
    print_predictions(HOSTILE, "csv")
    rows = list(csv.reader(io.StringIO(shown.getvalue(), newline="")))
    assert rows[0] == ["path", "label", *(f"probability_{name}" for name in HOSTILE.classes)]
    assert [row[:2] for row in rows[1:]] == [[answer.path, answer.label] for answer in HOSTILE.answers]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_names_do_not_steer_a_terminal(monkeypatch, caplog, form):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", shown)
    print_predictions(HOSTILE, form)
    for text in (shown.getvalue(), caplog.records[0].getMessage()):
        assert not any(letter in text for letter in "\x1b\x9b\u202e\udcff")
    assert r"+1\u001b[2J.png" in shown.getvalue()
    assert caplog.records[0].getMessage() == r"\u009b31m.png: no such file"
    if form == "json":
        assert [row["path"] for row in json.loads(shown.getvalue())] == [answer.path for answer in HOSTILE.answers]


@pytest.mark.slow
def test_nothing_readable_is_no_crash(here):
    Path("text.png").write_text("text")
    answer = relearn("text.png", "--json")
    assert (answer.exit_code, answer.stdout) == (1, "[]\n")


@pytest.mark.slow
def test_network_that_is_another_is_refused(here):
    for change in ({"seed": 1}, {"layer": "block1_pool"}):
        with pytest.raises(
            IntegrityError, match=r"vgg16: wanted network_sha256 [0-9a-f]{64} \(classifier\.json\), got"
        ):
            build_extractor(read_record().model_copy(update=change), None)
    with pytest.raises(IntegrityError, match=r"vgg16: wanted 7 features \(classifier\.json\), got"):
        build_extractor(read_record().model_copy(update={"n_features": 7}), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda record: record["classes"].reverse(),
            r"classifier\.json: wanted the record of sha256 .* changed by hand",
        ),
        (lambda record: record["extractor"].update(resize_filter="box"), "wanted the record of sha256"),
        (
            lambda record: record.pop("classes"),
            r"classifier\.json: wanted the key classes, got record_sha256, head_sha256",
        ),
        (lambda record: record.clear(), "wanted the key record_sha256, got none"),
    ],
)
@pytest.mark.slow
def test_changed_record_is_told(here, change, message):
    path = paths.CLASSIFIER / "classifier.json"
    record = read_json(path)
    change(record)
    write_json(path, record)
    with pytest.raises(IntegrityError, match=message):
        predict_files(["images"], paths.CLASSIFIER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": None}, r"classifier\.json: extractor\.network: Input should be"),
        ({"batch_size": 0}, r"extractor\.batch_size: Input should be greater"),
        ({"more": 1}, r"extractor\.more: Extra inputs are not permitted"),
    ],
)
@pytest.mark.slow
def test_record_of_another_version_is_told(trained, change, message):
    record = read_json(trained / paths.CLASSIFIER / "classifier.json")["extractor"]
    with pytest.raises(IntegrityError, match=message):
        predict.read_extractor_record(paths.CLASSIFIER, record | change)


@pytest.mark.slow
def test_weights_that_are_not_needed_are_refused(here):
    with pytest.raises(NetworkError, match="--weights: the classifier was trained with weights random, which need no"):
        build_extractor(read_record(), Path("x.h5"))


@pytest.mark.slow
def test_other_versions_are_said(here, caplog):
    record = read_record()
    build_extractor(record.model_copy(update={"keras": "3.0.0"}), None)
    assert "trained with keras 3.0.0, here is " in caplog.text


@pytest.mark.slow
def test_weights_file_may_have_moved(here, tmp_path):
    import keras

    network = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    moved = tmp_path / "moved.weights.h5"
    network.save_weights(moved)
    record = read_record()
    made = Extractor(record.model_copy(update={"weights": str(moved), "weights_sha256": hash_file(moved)})).record
    gone = made.model_copy(update={"weights": "gone.weights.h5"})
    with pytest.raises(NetworkError, match=r"gone\.weights\.h5: no such file from here; name with --weights"):
        build_extractor(gone, None)
    assert build_extractor(gone, moved).record.network_sha256 == made.network_sha256


def list_files(name):
    return [file.path for file in find_files(name)]


def test_arguments_stand_for_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "deep/er/c.png", "deep/.hidden.png", ".git/d.png", "[x].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert list_files("a.png") == ["a.png"]
    assert list_files(".") == ["./[x].png", "./a.png", "./b.png", "./deep/er/c.png"]
    assert list_files("?.png") == ["a.png", "b.png"]
    assert list_files("**/*.png") == ["[x].png", "a.png", "b.png", "deep/er/c.png"]
    assert list_files("[x].png") == ["[x].png"]
    assert list_files("z*.png") == []


def test_folders_that_cannot_be_listed_are_reported(tmp_path, monkeypatch):
    """Below a folder, the folder itself, and where glob would pass over them."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/closed/b.png", "photos/open/c.png", "photos/lost+found/d.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    scandir = os.scandir

    def scan(path="."):
        if str(path).rstrip("/").endswith(("closed", "lost+found")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    reason = "folder cannot be listed: Permission denied"
    refused = {"photos/closed": reason}
    for name in ("photos", "photos/**/*.png", "photos/*/*.png", "**/*.png"):
        files = find_files(name)
        assert {file.path: file.refusal for file in files if file.refusal} == refused, name
        assert "photos/open/c.png" in [file.path for file in files]
    assert [(file.path, file.refusal) for file in find_files("photos/closed")] == [("photos/closed", reason)]
    assert [file.refusal for file in find_files("photos/*.png")] == [None]


def test_what_systems_leave_is_not_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/@eaDir/a.png/THUMB.jpg", "photos/Thumbs.db"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert list_files("photos") == ["photos/a.png"]


def test_what_cannot_be_read_says_why(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    reasons = {}
    for file in find_files(str(tmp_path)):
        with pytest.raises(ImageError) as caught:
            predict.read_content(file)
        reasons[os.path.basename(file.path)] = str(caught.value)
    assert reasons == {
        "pipe": "not a regular file",
        "broken": "cannot be read: No such file or directory",
        "link": "link to a folder, not followed",
    }
