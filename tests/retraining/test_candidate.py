import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import ROOT, write_rows
from relearn import cli, paths
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.errors import DataError, IntegrityError
from relearn.features.shards import hash_features, read_features, seal_features
from relearn.inference.answers import Answer, Answers
from relearn.inference.classifier import hash_record, read_classifier
from relearn.params.pipeline import read_params
from relearn.retraining.candidate import describe_json, describe_outcome, judge_challenger
from relearn.retraining.release import IMAGES, IMAGES_HEADER, keep_version, switch_current
from relearn.stages.evaluate import run as evaluate
from relearn.stages.train import run as train
from relearn.storage.files import read_json, write_csv, write_folder, write_json

PARAMS = read_params(ROOT / "params.yaml").retrain.model_copy(update={"min_images": 50})


def write_report(path, *findings):
    keys = ("name", "severity", "passed", "wanted", "observed", "rows")
    findings = [dict(zip(keys, finding, strict=True)) for finding in findings]
    write_json(path, {"passed": all(f["passed"] for f in findings), "n_images": 3, "findings": findings})


def learn(by="split"):
    """Train and evaluate on the features that there are."""
    params = read_params(paths.PARAMS)
    train(params.train)
    evaluate(params.evaluate.model_copy(update={"n_resamples": 100, "by": by}), params.train)


def release(name="v1"):
    """Put the classifier that was trained in use."""
    files = {path.name: path.read_bytes() for path in paths.CLASSIFIER.iterdir()}
    keep_version(paths.RELEASE, files, name)
    images = {row.sha256: row.split for row in read_manifest(paths.MANIFEST)}
    write_csv(paths.RELEASE / "versions" / name / IMAGES, IMAGES_HEADER, sorted(images.items()))
    switch_current(paths.RELEASE, name)
    return paths.RELEASE / "versions" / name


@pytest.fixture
def champion(features):
    learn()
    write_report(paths.VALIDATION_REPORT, ("classes", "error", True, "2", "3", []))
    return release()


def rewrite(change, n_new=0, label=None):
    """Write the features again, `change(split, label, values)` of each image, and add this many evaluation images.

    Those are copies of old ones by their features, with the label given or their own.
    """
    rows, values = [], []
    for row, value in zip(read_manifest(paths.MANIFEST), read_values(), strict=True):
        rows.append(row)
        values.append(change(row.split, row.label, value))
    evaluation = [(row, value) for row, value in zip(rows, values, strict=True) if row.split == "evaluation"]
    for number, (row, value) in enumerate(evaluation[:n_new]):
        name = label or row.label
        rows.append(row._replace(path=f"evaluation/{name}/new-{number}.png", label=name, sha256=f"{number + 7:064x}"))
        values.append(value)
    order = sorted(
        range(len(rows)), key=lambda n: (("training", "validation", "evaluation").index(rows[n].split), rows[n].sha256)
    )
    rows = [rows[n] for n in order]
    write_csv(paths.MANIFEST, ManifestRow._fields, rows)
    with write_folder(paths.FEATURES) as folder:
        write_rows(folder, rows, np.array(values, np.float32)[order])
    write_json(
        paths.VERIFICATION_REPORT, {"passed": True, "n_images": 3, "findings": [], **hash_features(paths.FEATURES)}
    )


def read_values():
    return np.concatenate(
        [read_features(paths.FEATURES, split).features for split in ("training", "validation", "evaluation")]
    )


def test_without_a_champion(champion):
    found = judge_challenger(None, PARAMS)
    assert (found.decision.verdict, found.n_judged) == ("first", 60)
    assert describe_outcome(found) == "promoted, first: there was no production model"


def test_the_same_classifier_is_no_news(champion):
    found = judge_challenger(champion, PARAMS)
    assert (found.decision.promoted, found.decision.verdict) == (False, "the same")
    assert found.decision.reason == "the challenger is the champion, to the last bit"


def test_the_same_classifier_of_more_images_is_the_next_version(champion):
    rewrite(lambda split, label, value: value, n_new=20)
    learn()
    found = judge_challenger(champion, PARAMS)
    assert (found.decision.promoted, found.decision.verdict) == (True, "the same")
    assert found.decision.reason == "the challenger is the champion, to the last bit, trained on other images"


def test_the_same_classifier_on_new_images_with_wrong_labels_is_blocked(champion):
    rewrite(lambda split, label, value: value, n_new=40, label="class 2")
    learn()
    found = judge_challenger(champion, PARAMS)
    assert (found.decision.promoted, found.decision.verdict) == (False, "blocked by data")
    assert found.decision.reason.startswith(
        "the labels of the new images look wrong: the error rate of the challenger is "
    )


def test_a_gate_without_a_report_came_to_no_end(champion):
    paths.VERIFICATION_REPORT.unlink()
    with pytest.raises(IntegrityError, match=r"verification.json: no such file"):
        judge_challenger(None, PARAMS)
    paths.VALIDATION_REPORT.unlink()
    with pytest.raises(IntegrityError, match=r"validation.json: no such file"):
        judge_challenger(champion, PARAMS)


def test_without_a_candidate_there_is_no_first(champion):
    (paths.CLASSIFIER / "head.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"head.onnx: no such file"):
        judge_challenger(None, PARAMS)


def test_both_are_judged_on_the_same_images(champion):
    rng = np.random.default_rng(1)
    rewrite(lambda split, label, value: value if split == "evaluation" else rng.normal(size=value.shape), n_new=20)
    learn()
    found = judge_challenger(champion, PARAMS)
    assert (found.decision.verdict, found.n_judged, found.n_new) == ("worse", 80, 20)
    told = json.loads(describe_json(found))
    assert told["promoted"] is False
    assert told["differences"][0]["name"] == "accuracy_score"
    right = [
        answer == row.label
        for row, answer in zip(
            [row for row in read_manifest(paths.MANIFEST) if row.split == "evaluation"],
            answer_champion(champion),
            strict=True,
        )
    ]
    assert told["differences"][0]["first"] == pytest.approx(np.mean(right))
    assert len(told["only_champion"]) > len(told["only_challenger"])


def answer_champion(champion):
    classifier = read_classifier(champion)
    values = [
        v for row, v in zip(read_manifest(paths.MANIFEST), read_values(), strict=True) if row.split == "evaluation"
    ]
    return classifier.predict_labels(classifier.predict_probabilities(np.array(values)))


def test_challenger_that_was_evaluated_in_folds_is_judged_itself(champion):
    rng = np.random.default_rng(1)
    rewrite(lambda split, label, value: value if split == "evaluation" else rng.normal(size=value.shape), n_new=20)
    learn()
    expected = judge_challenger(champion, PARAMS)
    learn(by="folds")
    found = judge_challenger(champion, PARAMS)
    assert (found.decision, found.n_judged) == (expected.decision, 80)
    assert found.comparison.only_first == expected.comparison.only_first


def test_images_that_the_champion_was_trained_on_do_not_count(champion):
    rows = read_manifest(paths.MANIFEST)
    evaluation = [row.sha256 for row in rows if row.split == "evaluation"]
    images = {row.sha256: "training" if row.sha256 in evaluation[:55] else row.split for row in rows}
    write_csv(champion / IMAGES, IMAGES_HEADER, sorted(images.items()))
    rewrite(lambda split, label, value: value * (0.5 if split == "training" else 1))
    learn()
    found = judge_challenger(champion, PARAMS)
    assert (found.n_judged, found.decision.verdict) == (5, "too few images")
    assert "wanted at least 50 evaluation images in common (retrain.min_images), got 5" in found.decision.reason
    images = dict.fromkeys(images, "training")
    write_csv(champion / IMAGES, IMAGES_HEADER, sorted(images.items()))
    assert judge_challenger(champion, PARAMS).n_judged == 0


def test_failed_checks_are_told_with_their_rows(champion):
    write_report(
        paths.VALIDATION_REPORT,
        ("min_images", "error", False, "20", "3", [f"row {n}" for n in range(9)]),
        ("contrast", "warn", False, "4", "1", []),
        ("classes", "error", True, "2", "2", []),
    )
    found = judge_challenger(champion, PARAMS)
    assert found.decision.verdict == "blocked by data"
    assert list(found.failed_checks) == ["min_images: wanted 20, got 3: row 0, row 1, row 2, row 3, row 4"]
    write_report(paths.VALIDATION_REPORT)
    write_report(paths.VERIFICATION_REPORT, ("finite", "error", False, "numbers", "1 other", ["a.png"]))
    assert list(judge_challenger(None, PARAMS).failed_checks) == ["finite: wanted numbers, got 1 other: a.png"]


def test_another_network_predicts_the_images_again(champion, monkeypatch):
    """Where the features of the one in use are not at hand, what counts is what its `predict` says of the files."""
    record = json.loads((paths.FEATURES / "extractor.json").read_text())
    rewrite(lambda split, label, value: value * 2)
    write_json(paths.FEATURES / "extractor.json", {**record, "network": "y"})
    seal_features(paths.FEATURES)
    learn()
    asked = []

    def predict_files(inputs, folder):
        asked.append((inputs, folder))
        answers = [
            Answer(str(paths.DATASET / row.path), row.label, [float(row.label == f"class {n}") for n in range(3)])
            for row in read_manifest(paths.MANIFEST)
            if row.split == "evaluation"
        ]
        return Answers([f"class {n}" for n in range(3)], answers, failures)

    monkeypatch.setattr("relearn.inference.predictor.predict_files", predict_files)
    failures = []
    found = judge_challenger(champion, PARAMS)
    assert found.comparison.differences[0].first == 1
    assert asked == [(["data/dataset/evaluation"], champion)]
    failures = [("data/dataset/evaluation/x.png", "broken")]
    with pytest.raises(DataError, match=r"x.png: broken, so the champion cannot be judged on it$"):
        judge_challenger(champion, PARAMS)


def leave_out(folder, key):
    """Write a classifier as an earlier relearn did, whose record did not have a key."""
    record = json.loads((folder / "classifier.json").read_text())
    del record["record_sha256"], record["extractor"][key]
    write_json(folder / "classifier.json", {"record_sha256": hash_record(record), **record})


def test_a_classifier_of_an_earlier_relearn_is_replaced_without_a_comparison(champion):
    rewrite(lambda split, label, value: value * 2, n_new=20)
    learn()
    leave_out(champion, "feature_dtype")
    found = judge_challenger(champion, PARAMS)
    assert describe_outcome(found) == (
        "promoted, not compared: the production model v1 was made by an earlier relearn and cannot be compared: "
        "its classifier.json lacks extractor.feature_dtype"
    )
    assert (found.comparison, found.n_judged, found.n_new) == (None, 80, 20)
    assert json.loads(describe_json(found))["differences"] == []
    found = judge_challenger(champion, PARAMS.model_copy(update={"min_images": 81}))
    assert (found.decision.promoted, found.decision.verdict) == (False, "too few images")
    assert "wanted at least 81 evaluation images in common (retrain.min_images), got 80" in found.decision.reason


def test_a_classifier_of_an_earlier_relearn_is_not_replaced_if_new_labels_may_be_wrong(champion):
    rewrite(lambda split, label, value: value, n_new=40, label="class 2")
    learn()
    leave_out(champion, "feature_dtype")
    found = judge_challenger(champion, PARAMS)
    assert (found.decision.promoted, found.decision.verdict) == (False, "blocked by data")
    assert "the new images" in found.decision.reason


def test_a_classifier_of_a_later_relearn_is_named_as_that(champion):
    leave_out(paths.CLASSIFIER, "feature_dtype")
    found = judge_challenger(champion, PARAMS)
    assert found.decision.reason == (
        "the production model v1 was made by another relearn and cannot be compared: its classifier.json has "
        "extractor.feature_dtype"
    )


def test_the_command_judges_against_release_current(champion):
    answer = CliRunner().invoke(cli.app, ["decide", "--output", "out/decision.json"])
    assert answer.exit_code == 0, answer.output
    assert answer.output == "not promoted, the same: the challenger is the champion, to the last bit\n"
    assert read_json(Path("out/decision.json"))["verdict"] == "the same"
