import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import relearn
from conftest import draw_image, encode_image
from inference.exports import write_export
from relearn import paths
from relearn.errors import ImageError, IntegrityError, NetworkError, RelearnError
from relearn.inference.exported import ExportedModel
from relearn.inference.loading import load_model
from relearn.storage.files import write_json


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder with an exported model, and two photos beside it."""
    monkeypatch.chdir(tmp_path)
    write_export(Path("model"))
    for number in range(2):
        Path(f"{number}.png").write_bytes(encode_image(draw_image(number)))
    return Path("model")


def test_images_of_any_kind_get_the_answers_of_predict_files(model):
    predictor = relearn.load(model)
    files = [Path("0.png"), Path("1.png")] * 9  # more than one batch
    table = predictor.predict(files)
    assert list(table.columns) == ["path", "label", *predictor.classes] == ["path", "label", "blue", "red"]
    assert table["path"].tolist() == [str(file) for file in files]
    answers = predictor.predict_files(["0.png", "1.png"]).answers
    assert table["label"].tolist() == [answer.label for answer in answers] * 9
    rows = table[predictor.classes].to_numpy()
    assert rows[:2].astype(float).round(6).tolist() == [answer.probabilities for answer in answers]
    opened = [Image.open(file) for file in files]
    for images in ([file.read_bytes() for file in files], opened, [np.array(image) for image in opened]):
        found = predictor.predict(images)
        assert found["path"].isna().all()
        np.testing.assert_array_equal(found[predictor.classes], rows)
    assert predictor.predict([]).shape == (0, 4)
    with pytest.raises(ImageError, match=r"^images\[1\] \(gone\.png\): cannot be read: No such file or directory$"):
        predictor.predict(["0.png", "gone.png"])


def test_a_data_frame_needs_pandas(model, monkeypatch):
    predictor = relearn.load(model)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RelearnError, match=r"^predict: wanted pandas .*, got none; `pip install pandas`, or use"):
        predictor.predict(["0.png"])
    assert len(predictor.predict_files(["0.png"]).answers) == 1


def test_a_weights_file_is_not_for_an_exported_model(model):
    wanted = "no file, because model has an exported model, which holds its weights"
    for load in (load_model, relearn.load):
        with pytest.raises(NetworkError, match=f"^--weights: wanted {wanted}, got x.h5; leave it out$"):
            load(model, Path("x.h5"))


def test_of_a_release_with_both_files_are_predicted_with_the_exported_model(model):
    """But `load` returns what can explain as well."""
    write_json(model / "classifier.json", {})
    assert isinstance(load_model(model), ExportedModel)
    with pytest.raises(IntegrityError, match=r"classifier\.json: wanted the key record_sha256"):
        relearn.load(model)


def test_a_model_is_named_by_its_folder_or_its_file(model, monkeypatch):
    for load in (load_model, relearn.load):
        assert load(model / "model.onnx").record == load(model).record
    write_json(model / "classifier.json", {})  # of a folder with both, the file is the exported model
    assert isinstance(relearn.load(model / "model.onnx"), ExportedModel)
    Path("current").symlink_to(model)
    assert load_model(Path("current/model.onnx")).record == load_model(model).record
    monkeypatch.chdir(model)
    assert load_model(Path("model.onnx")).classes == ["blue", "red"]


def test_a_folder_may_have_the_name_of_the_file(model):
    model.rename("model.onnx")
    assert load_model(Path("model.onnx/model.onnx")).record == load_model(Path("model.onnx")).record


def test_a_file_without_its_record_is_reported(model):
    (model / "model.json").unlink()
    write_json(model / "classifier.json", {})
    for load in (load_model, relearn.load):
        with pytest.raises(IntegrityError, match=r"^model/model\.onnx: wanted model\.json beside it, got none; keep"):
            load(model / "model.onnx")
    (model / "model.onnx").unlink()
    with pytest.raises(
        IntegrityError, match=r"^model/model\.onnx: no such file; `relearn export -o FOLDER` makes one$"
    ):
        load_model(model / "model.onnx")


def test_what_is_missing_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    for path, got in {"gone": "no folder", "x.txt": "a file", ".": "neither"}.items():
        Path("x.txt").touch()
        wanted = rf"{re.escape(path)}: wanted a folder with an exported model \(model\.json\) or a classifier"
        with pytest.raises(IntegrityError, match=rf"^{wanted} \(classifier\.json\), got {got}; `relearn export"):
            load_model(Path(path))
    for load, missing in ((load_model, paths.CLASSIFIER), (relearn.load, Path("gone"))):
        with pytest.raises(IntegrityError, match=rf"^{missing}: no classifier there; run"):
            load(missing)
        (model / "model.json").unlink(missing_ok=True)
        write_json(model / "classifier.json", {})
        with pytest.raises(NetworkError, match=r"^model: wanted an exported model, or keras .* run `relearn export`"):
            load(model)
