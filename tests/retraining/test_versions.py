import json
import shutil

import pytest

from conftest import commit, git
from inference.exports import write_export
from relearn import paths
from relearn.dataset.manifest import Exclusion, ManifestRow, SourceDetails, write_manifest
from relearn.errors import AbsentFile, IntegrityError
from relearn.inference.exported import ExportedModel
from relearn.repository.git import add_worktree, read_trailers, run_git, write_commit
from relearn.retraining import versions
from relearn.retraining.publication import align_release, publish_record
from relearn.retraining.records import write_record
from relearn.retraining.start import find_start, list_kept_files
from relearn.retraining.versions import bring_version, check_version, list_gone, read_excluded
from relearn.storage.files import write_csv
from retrainings import BRANCH, FIRST, PARAMS, WORSE, format_trailers, retrain, write_candidate


@pytest.mark.parametrize("name", ["images.csv", "head.onnx", "classifier.json"])
def test_a_version_that_was_changed_after_its_promotion_judges_nothing(root, name):
    retrain(root, 1, FIRST)
    assert check_version(root, "v1") is None
    path = root / "release" / "versions" / "v1" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"^\S+/v1: wanted the classifier that is recorded as v1, got another; "):
        check_version(root, "v1")
    shutil.rmtree(path.parent)
    assert check_version(root, "v1") is None
    assert path.exists()


def test_images_of_a_version_are_those_that_its_record_names(root, monkeypatch):
    retrain(root, 1, FIRST)
    read = versions.read_committed
    monkeypatch.setattr(versions, "read_committed", lambda *where: read(*where).replace(b"training", b"evaluation"))
    shutil.rmtree(root / "release")
    with pytest.raises(
        IntegrityError, match=r"^data/manifest.csv of classifier@v1.0.0: wanted sha256 \w+, as is recorded"
    ):
        align_release(root, BRANCH)

    def fail(*_where):
        raise AbsentFile("gone")

    monkeypatch.setattr(versions, "read_committed", fail)
    assert check_version(root, "v1") == "release/versions/v1 was not checked against its record: gone"


def test_a_tuned_network_is_part_of_a_version(tmp_path, monkeypatch):
    def record(weights):
        return json.dumps({"extractor": {"weights": weights}}).encode()

    contents = {name: name.encode() for name in ("head.onnx", paths.TUNED_WEIGHTS)}

    def read(_root, _tag, path):
        return b"path,sha256,split\na,1,training\n" if path == paths.MANIFEST else contents[path.name]

    monkeypatch.setattr(versions, "read_committed", read)
    monkeypatch.setattr(versions, "read_trailers", lambda *_: {})
    for version, weights in (("v1", "imagenet"), ("v2", "models/network/network.weights.h5")):
        contents["classifier.json"] = record(weights)
        bring_version(tmp_path, version)
    kept = {path.name: {file.name for file in path.iterdir()} for path in (tmp_path / "release/versions").iterdir()}
    assert kept["v1"] == {"head.onnx", "classifier.json", "images.csv"}
    assert kept["v2"] == kept["v1"] | {"network.weights.h5"}
    assert (tmp_path / "release/versions/v2/network.weights.h5").read_bytes() == b"network.weights.h5"


def write_data(folder, images, excluded=()):
    """Write what `restructure` does; an image is the letter of its hash and its path in the source."""
    rows = [
        ManifestRow(f"training/x/{letter}.png", "training", "x", letter * 64, 1, 1, 1, "L", "PNG")
        for letter, _ in images
    ]
    write_manifest(folder / paths.MANIFEST, rows)
    sightings = [(row.path, source, 1.0) for row, (_, source) in zip(rows, images, strict=True)]
    write_csv(folder / paths.SIGHTINGS, SourceDetails._fields, sightings)
    write_csv(folder / paths.EXCLUDED, Exclusion._fields, excluded)


def test_why_files_are_not_in_the_data_of_a_version(root, monkeypatch):
    write_csv(root / paths.EXCLUDED, Exclusion._fields, [Exclusion("cat/1.png", 'no image, "why"')])
    commit(root)
    retrain(root, 1, FIRST)
    assert read_excluded(root, "v1") == {"cat/1.png": 'no image, "why"'}

    def fail(*_arguments):
        raise AbsentFile("not in DVC's cache")

    monkeypatch.setattr(versions, "read_committed", fail)
    assert read_excluded(root, "v1") == {}


def test_images_that_are_gone_are_named(root, tmp_path):
    write_data(root, [("a", "x/1.png"), ("b", "x/2.png"), ("c", "x/3.png"), ("d", "x/4.png"), ("d", "x/copy.png")])
    git(root, "add", "--all")
    start = find_start(root, "main", PARAMS)
    trailers = format_trailers(Promoted="v1")
    publish_record(root, BRANCH, write_commit(root, [start.base], trailers), None)
    write_data(tmp_path, [("a", "moved.png"), ("e", "x/2.png")], [("x/3.png", "empty")])
    gone = list_gone(root, tmp_path, "v1")
    assert gone == [
        ("x/2.png", f"other bytes have its name: sha256 {'e' * 64}"),
        ("x/3.png", "empty"),
        ("x/4.png", "no longer in the source"),
        ("x/copy.png", "no longer in the source"),
    ]
    start = find_start(root, "main", PARAMS)
    add_worktree(root, root / "worktree", start.base, start.production, list_kept_files(root, start))
    write_candidate(root / "worktree", 2)
    made, _ = write_record(root, root / "worktree", start, WORSE | {"gone": gone}, None)
    body = run_git(root, "log", "-1", "--format=%b", made)
    assert body.startswith("of 10\n\nImages of v1 that are not in this data: 4\n- x/2.png: other bytes have its name: ")
    assert read_trailers(root, made)["In-use"] == "v1"
    write_data(tmp_path, [(letter, f"{letter}.png") for letter in "abcd"])
    assert list_gone(root, tmp_path, "v1") == []


@pytest.mark.parametrize(("number", "version", "is_taken"), [(1, "v1", True), (1, "v2", False), (2, "v1", False)])
def test_a_version_takes_the_export_of_its_own_classifier(root, number, version, is_taken):
    write_export(root / versions.PENDING_EXPORT, version=version)  # of a classifier whose hash is all 1
    retrain(root, int(str(number) * 64), FIRST)
    folder = root / "release" / "versions" / "v1"
    assert (folder / "model.onnx").exists() == is_taken
    assert check_version(root, "v1") is None  # the record does not name it
    assert (root / versions.PENDING_EXPORT).exists() != is_taken
    if is_taken:
        assert ExportedModel(root / "release" / "current").record.version == "v1"


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_damaged_export_is_left_out(root, name, caplog):
    write_export(root / versions.PENDING_EXPORT, version="v1")
    (root / versions.PENDING_EXPORT / name).write_bytes(b"cut")
    retrain(root, int("1" * 64), FIRST)
    assert not (root / "release" / "versions" / "v1" / "model.onnx").exists()
    assert "v1 has no exported model: " in caplog.text
