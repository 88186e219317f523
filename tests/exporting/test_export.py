"""A trained classifier, exported, proved and asked."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference.conftest import here, trained  # noqa: F401 (fixtures)
from relearn import paths
from relearn.errors import IntegrityError
from relearn.exporting import quantization
from relearn.exporting.export import ExportOptions, check_target, export_classifier, is_export_of
from relearn.exporting.proof import check_alike, check_equal, compare_answers
from relearn.inference.exported import MODEL, ExportedModel, read_export_record
from relearn.inference.predictor import Predictor

CLASSES = ["cat", "dog"]


def make_probabilities(*columns):
    return np.array([[1 - p, p] for p in columns], np.float32)


def test_equal_answers_are_proved():
    before = make_probabilities(0.1, 0.9, 0.4)
    proof = compare_answers("validation", ["cat", "dog", "dog"], CLASSES, before, before + np.float32(5e-5))
    check_equal(proof, "float32")
    assert (proof.n_images, proof.n_same, proof.n_right_before, proof.n_right, proof.p_value) == (3, 3, 2, 2, 1.0)


@pytest.mark.parametrize("last", [0.6, 0.4002])
def test_other_answers_are_refused(last):
    proof = compare_answers(
        "validation", ["cat"] * 2, CLASSES, make_probabilities(0.1, 0.4), make_probabilities(0.1, last)
    )
    with pytest.raises(IntegrityError, match="nothing was written"):
        check_equal(proof, "float32")


def test_one_label_of_a_hundred_may_differ_where_answers_may():
    labels = ["dog"] * 100
    before = make_probabilities(*[0.9] * 100)
    for n_wrong, is_refused in ((1, False), (2, True)):
        after = make_probabilities(*[0.1] * n_wrong, *[0.9] * (100 - n_wrong))
        proof = compare_answers("validation", labels, CLASSES, before, after)
        if is_refused:
            with pytest.raises(IntegrityError, match=r"98 of 100 labels.* export without --int8"):
                check_alike(proof, "--int8")
        else:
            check_alike(proof, "--int8")


def test_what_is_significantly_worse_is_refused():
    n = 2000
    before, after = make_probabilities(*[0.9] * n), make_probabilities(*[0.1] * 15, *[0.9] * (n - 15))
    with pytest.raises(IntegrityError, match="McNemar"):
        check_alike(compare_answers("validation", ["dog"] * n, CLASSES, before, after), "--int8")


def test_a_folder_with_something_else_stays(tmp_path):
    check_target(tmp_path / "new")
    check_target(tmp_path)
    for name in ("model.onnx", "model.json", "README.md"):
        (tmp_path / name).touch()
    check_target(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(IntegrityError, match="a new folder, or an earlier export, got a link"):
        check_target(tmp_path / "link")  # as release/current is
    with pytest.raises(IntegrityError, match="got 'link' in it"):
        check_target(tmp_path)


@pytest.mark.slow
def test_a_model_answers_as_the_pipeline(here):  # noqa: F811
    target = Path("exported")
    record = export_classifier(paths.CLASSIFIER, target, ExportOptions(has_features=True), "v7")
    assert (record.version, record.proof.split, record.proof.n_images) == ("v7", "validation", 6)
    assert record.proof.max_difference < 1e-5
    assert record == read_export_record(target)
    assert [is_export_of(paths.CLASSIFIER, target, version) for version in ("v7", None, "v8")] == [True, True, False]
    shutil.copytree(target, "damaged")
    (Path("damaged") / MODEL).write_bytes(b"")
    assert not is_export_of(paths.CLASSIFIER, Path("damaged"), "v7")
    model = ExportedModel(target)
    wanted = Predictor(paths.CLASSIFIER).predict_files([str(paths.DATASET / "evaluation")])
    got = model.predict_files([str(paths.DATASET / "evaluation")])
    assert [(answer.path, answer.label) for answer in got.answers] == [(a.path, a.label) for a in wanted.answers]
    for answer, other in zip(got.answers, wanted.answers, strict=True):
        np.testing.assert_allclose(answer.probabilities, other.probabilities, atol=1e-5)
    photos = sorted((paths.DATASET / "evaluation").rglob("*.png"))
    images = [model.read_image(photo.read_bytes()) for photo in photos]
    together = model.predict_probabilities(images)
    alone = [model.predict_probabilities([image])[0] for image in images]
    one_thread = ExportedModel(target, n_threads=1).predict_probabilities(images)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, one_thread)

    # The snippet of the README, and the same bytes in another process.
    shutil.copy(photos[0], target / "photo.jpg")  # Pillow looks at the content
    readme = (target / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    printed = subprocess.run([sys.executable, "-c", code], cwd=target, capture_output=True, text=True, check=True)
    assert printed.stdout.split()[0] == model.predict_files([str(photos[0])]).answers[0].label
    before = (target / MODEL).read_bytes()
    script = (
        "from pathlib import Path; from relearn.exporting.export import *; "
        "export_classifier(Path('models/classifier'), Path('again'), ExportOptions(has_features=True), None)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert Path("again", MODEL).read_bytes() == before


@pytest.mark.slow
def test_a_quantized_and_a_resizing_model_are_proved_too(here):  # noqa: F811
    options = ExportOptions(any_size=True, is_int8=True)
    record = export_classifier(paths.CLASSIFIER, Path("exported"), options, None)
    assert record.quantization == "int8"
    assert record.proof_any_size.n_same == 6
    assert 1e-6 < record.proof.max_difference < 0.2
    assert len(ExportedModel(Path("exported")).predict_files([str(paths.DATASET / "evaluation")]).answers) == 6


@pytest.mark.slow
def test_a_broken_quantization_is_refused_and_nothing_written(here, monkeypatch):  # noqa: F811
    """Per tensor and with ranges of a black image, as one may quantize by mistake."""
    quantize = quantization._quantize

    def break_ranges(source, target, images, kept):
        quantize(source, target, [np.zeros_like(images[0])], kept)

    monkeypatch.setattr(quantization, "_quantize", break_ranges)
    Path("exported").mkdir()
    with pytest.raises(IntegrityError, match=r"got [0-5] of 6 labels of validation the same.*nothing was written"):
        export_classifier(paths.CLASSIFIER, Path("exported"), ExportOptions(is_int8=True), None)
    assert not list(Path("exported").iterdir())
