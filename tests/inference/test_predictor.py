import csv
import io
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import draw_image, encode_image
from relearn import cli, paths
from relearn.dataset.manifest import read_manifest
from relearn.errors import ImageError, IntegrityError, NetworkError
from relearn.features.computation import read_prepared
from relearn.features.shards import read_features
from relearn.inference.predictor import Predictor, build_extractor, predict_files, read_extractor_record
from relearn.networks.extractor import Extractor
from relearn.networks.recipe import ExtractorRecord
from relearn.storage.files import hash_file, read_csv, read_json, write_json

CLASSES = ["cat", "dog"]


def read_record():
    return ExtractorRecord.model_validate(read_json(paths.CLASSIFIER / "classifier.json")["extractor"])


def relearn(*arguments):
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)])


@pytest.mark.slow
def test_features_are_those_of_extract_bit_for_bit(here):
    record = read_record()
    extractor = build_extractor(record, None)
    rows = read_manifest(paths.MANIFEST)[::-1]
    features = np.array(list(extractor.compute_rows(read_prepared(extractor, row) for row in rows)))[::-1]
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
    assert "text.png: not an image (AVIF, BMP, GIF, HEIC, JPEG, PNG, TIFF, WEBP are read)" in caplog.text
    assert "cut.jpg: damaged JPEG file" in caplog.text


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
def test_changed_record_is_an_error(here, change, message):
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
def test_record_of_another_version_is_an_error(trained, change, message):
    record = read_json(trained / paths.CLASSIFIER / "classifier.json")["extractor"]
    with pytest.raises(IntegrityError, match=message):
        read_extractor_record(paths.CLASSIFIER, record | change)


@pytest.mark.slow
def test_weights_that_are_not_needed_are_refused(here):
    with pytest.raises(
        NetworkError, match="--weights: wanted no file, because the classifier was trained with weights random, got "
    ):
        build_extractor(read_record(), Path("x.h5"))


@pytest.mark.slow
def test_other_versions_are_logged(here, caplog):
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
    with pytest.raises(NetworkError, match=r"gone\.weights\.h5: no such file; name with --weights"):
        build_extractor(gone, None)
    assert build_extractor(gone, moved).record.network_sha256 == made.network_sha256


@pytest.mark.slow
def test_images_in_memory_are_read_like_files(here):
    """Bytes, arrays and images of Pillow, also one that lies on its side, is transparent, or has a palette."""
    files = [paths.DATASET / row.path for row in read_manifest(paths.MANIFEST) if row.split == "evaluation"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Path("side.jpg").write_bytes(encode_image(draw_image(1, (40, 20)), "JPEG", exif=exif))
    Path("clear.png").write_bytes(encode_image(draw_image(2, mode="RGBA")))
    Path("palette.gif").write_bytes(encode_image(draw_image(3), "GIF"))
    Path("ink.jpg").write_bytes(encode_image(draw_image(4, mode="CMYK"), "JPEG"))
    files += map(Path, ("side.jpg", "clear.png", "palette.gif", "ink.jpg"))
    predictor = Predictor(paths.CLASSIFIER)
    expected = predictor.predict(files)
    assert list(expected.columns) == ["path", "label", *CLASSES] == ["path", "label", *predictor.classes]
    assert expected["path"].tolist() == [str(file) for file in files]
    answers = predict_files([str(file) for file in files], paths.CLASSIFIER).answers
    assert expected["label"].tolist() == [answer.label for answer in answers]
    assert [answer.probabilities for answer in answers] == expected[CLASSES].to_numpy().astype(float).round(6).tolist()
    in_memory = ([file.read_bytes() for file in files], [Image.open(io.BytesIO(file.read_bytes())) for file in files])
    arrays = [np.array(image) for image in in_memory[1][:6]]
    for images in (*in_memory, arrays, np.array(arrays)):
        found = predictor.predict(images)
        assert found["path"].isna().all()
        np.testing.assert_array_equal(found[CLASSES], expected[CLASSES][: len(images)])
    features = predictor.features(files[:6])
    stored = read_features(paths.FEATURES, "evaluation").features
    assert (features.dtype, features.tobytes()) == (np.float32, stored.tobytes())
    assert predictor.features([]).shape == (0, features.shape[1])
    assert predictor.predict([]).shape == (0, 4)


@pytest.mark.slow
def test_errors_name_the_image(here, caplog):
    caplog.set_level("INFO", "relearn")
    predictor = Predictor(paths.CLASSIFIER)
    assert "loading vgg16" in caplog.messages
    good = "images/training/cat/0.png"
    Path("text.png").write_text("text")
    for images, message in (
        ([good, "gone.png"], r"^images\[1\] \(gone\.png\): cannot be read: No such file or directory$"),
        ([good, Path("text.png")], r"^images\[1\] \(text\.png\): not an image \("),
        ([b""], r"^images\[0\]: empty file$"),
        ([good, np.zeros((4, 4))], r"^images\[1\]: wanted an array .* of uint8, got \(4, 4\) of float64; convert "),
        ([Image.new("F", (4, 4))], r"^images\[0\]: wanted a mode of .*, got F; use image\.convert"),
        ([7], r"^images\[0\]: wanted a path, bytes, an image of Pillow or an array, got int; "),
        (good, r"^images: wanted a list, got str; write \[image\] for one$"),
        (Image.new("RGB", (4, 4)), "^images: wanted a list, got Image; "),
        (np.zeros((4, 4, 3), np.uint8), "^images: wanted a list, got ndarray; "),
        (None, "^images: wanted a list, got NoneType; "),
    ):
        for ask in (predictor.predict, predictor.features):
            with pytest.raises(ImageError, match=message):
                ask(images)


@pytest.mark.slow
def test_threads_share_a_predictor(here):
    predictor = Predictor(paths.CLASSIFIER)
    files = sorted(Path("images").rglob("*.png"))
    expected = predictor.features(files)
    found = {}

    def ask(number):
        found[number] = [predictor.features(files[number:]) for _ in range(2)]

    threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [features.tobytes() for features in found[number]] == [expected[number:].tobytes()] * 2
