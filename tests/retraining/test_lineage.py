import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from conftest import commit, git, init_dvc
from relearn import cli
from relearn.errors import AbsentFile, IntegrityError
from relearn.repository.committed import read_committed
from relearn.repository.tags import list_tags
from relearn.retraining.lineage import describe_lineage, find_image_uses, find_lineage
from relearn.storage.files import hash_bytes

EXTRACTOR = {
    "network": "n",
    "weights": "random",
    "network_sha256": "a" * 64,
    "keras": "3",
    "backend": "b 1",
    "pillow": "13",
}


def write(folder, number, *images):
    """Write a classifier whose data has these images, (letter of the hash, split) each."""
    record = {"record_sha256": f"{number}", "head": "h", "options": {"C": number}, "extractor": EXTRACTOR}
    rows = "".join(f"{letter * 64},{split}\n" for letter, split in images)
    files = {
        "data/manifest.csv": "sha256,split\n" + rows,
        "models/classifier/classifier.json": json.dumps(record),
        "metrics/evaluation.json": json.dumps({"accuracy_score": 0.5, "n_images": number}),
        "requirements.lock": f"x=={number}",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    commit(folder)
    git(folder, "tag", "-a", f"classifier@v{number}.0.0", "-m", "x")


@pytest.fixture
def repository(workspace):
    git(workspace, "init", "--quiet")
    init_dvc(workspace)
    write(workspace, 2, ("a", "training"), ("b", "evaluation"))
    write(workspace, 10, ("a", "training"), ("b", "evaluation"), ("c", "validation"))
    git(workspace, "tag", "classifier@v3.1.0")  # another one's
    write(workspace, 11, ("a", "evaluation"))
    git(workspace, "tag", "-d", "classifier@v11.0.0")
    return workspace


def test_without_a_release_it_is_that_of_the_last_commit(repository, caplog):
    caplog.set_level("INFO", "relearn")
    answer = CliRunner().invoke(cli.app, ["lineage"])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[0].endswith(git(repository, "rev-parse", "HEAD").strip())
    assert caplog.messages == ["release: no release here; this is the classifier of HEAD, the last commit"]


def test_by_tag_revision_and_folder(repository):
    found = find_lineage("v2")
    assert (found.tag, found.images) == ("classifier@v2.0.0", {"a" * 64: "training", "b" * 64: "evaluation"})
    assert found.environment_sha256 == hash_bytes(b"x==2")
    assert "retrain:" in found.params
    assert found.record["options"] == {"C": 2}
    in_folds = found._replace(metrics=found.metrics | {"n_folds": 5})
    assert describe_lineage(in_folds)[-1] == "evaluation   accuracy 0.5000 of 2 images, out of 5 folds"
    found = find_lineage("HEAD")
    assert (found.tag, found.commit) == (None, git(repository, "rev-parse", "HEAD").strip())
    folder = repository / "kept"
    folder.mkdir()
    (folder / "classifier.json").write_bytes(
        read_committed(repository, "classifier@v2.0.0", cli.paths.CLASSIFIER / "classifier.json")
    )
    assert find_lineage("kept").tag == "classifier@v2.0.0"
    (folder / "classifier.json").write_text('{"record_sha256": "other"}')
    with pytest.raises(IntegrityError, match=r"^kept: wanted the classifier of a tag classifier@vN.0.0, got one of"):
        find_lineage("kept")
    with pytest.raises(
        IntegrityError, match=r"^v9.*: wanted a tag \(classifier@v10.0.0, classifier@v2.0.0\), another revision of git"
    ):
        find_lineage("v9.9")


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("models/classifier/classifier.json", b"[" * 10_000, "classifier.json of .*: wanted JSON, got "),
        ("models/classifier/classifier.json", b"{}", "classifier.json of .*: wanted the key extractor, got none"),
        ("metrics/evaluation.json", b"[1]", "evaluation.json of .*: wanted a JSON object, got a list"),
        ("params.yaml", b"a: 1\n\xff", "^params.yaml of HEAD: wanted text in UTF-8, got byte 6: invalid start byte$"),
        ("data/manifest.csv", b"\xff", "manifest.csv: wanted rows with sha256 and split, got none"),
        ("data/manifest.csv", b"path,split\nx,training\n", "manifest.csv: wanted rows with sha256 and split, got none"),
    ],
)
def test_a_malformed_file_of_a_commit_is_an_error(repository, path, content, message):
    (repository / path).write_bytes(content)
    git(repository, "commit", "--all", "--quiet", "--message", "x")
    with pytest.raises(IntegrityError, match=message):
        find_lineage("HEAD")


def test_which_classifiers_saw_an_image(repository):
    assert find_image_uses("c" * 64) == ([("classifier@v10.0.0", "validation")], [])
    assert [split for _, split in find_image_uses("a" * 64)[0]] == ["training", "training"]
    runner = CliRunner()
    answer = runner.invoke(cli.app, ["lineage", "--image", "d" * 64])
    assert answer.output == f"no classifier that was promoted has seen {'d' * 64}\n"
    answer = runner.invoke(cli.app, ["lineage", "--image", "c" * 64, "--json"])
    assert json.loads(answer.output) == {"sha256": "c" * 64, "splits": {"classifier@v10.0.0": "validation"}}
    (repository / "image.png").write_bytes(b"x")
    answer = runner.invoke(cli.app, ["lineage", "--image", "image.png"])
    assert hash_bytes(b"x") in answer.output
    answer = runner.invoke(cli.app, ["lineage", "--image", "C" * 64])
    assert answer.output == "classifier@v10.0.0  validation\n"
    assert runner.invoke(cli.app, ["lineage", "v2", "--image", "x"]).exit_code == 2
    answer = runner.invoke(cli.app, ["lineage", "v10"])
    assert "images       3 (training 1, validation 1, evaluation 1), data/manifest.csv sha256 " in answer.output
    assert "corrections  0, sha256 " in answer.output


def test_corrections_are_named_with_their_hash(repository):
    with (repository / "data/corrections.csv").open("a") as file:
        file.write(
            "".join(f"{letter * 64},{action},,,\n" for letter, action in (("a", "keep"), ("b", "keep"), ("c", "drop")))
        )
    content = (repository / "data/corrections.csv").read_bytes()
    write(repository, 12, ("a", "training"))
    found = find_lineage("v12")
    assert (found.corrections, found.corrections_sha256) == ({"keep": 2, "drop": 1}, hash_bytes(content))
    assert f"corrections  3 (drop 1, keep 2), sha256 {hash_bytes(content)}" in describe_lineage(found)
    (repository / "params.yaml").write_text("retrain: {}")  # older than corrections are
    write(repository, 13, ("a", "training"))
    assert "corrections  none: the revision has no file of them" in describe_lineage(find_lineage("v13"))


def test_corrections_that_were_committed_but_not_applied(repository):
    """The data was made with the file of before."""
    path = repository / "data/corrections.csv"
    lock = "stages: {{restructure: {{cmd: x, deps: [{{path: data/corrections.csv, hash: md5, md5: {}}}]}}}}\n"
    before = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    (repository / "dvc.lock").write_text(lock.format(before))
    write(repository, 12, ("a", "training"))
    assert find_lineage("v12").are_applied
    with path.open("a") as file:
        file.write(f"{'a' * 64},drop,,blurred,me\n")
    write(repository, 13, ("a", "training"))
    found = find_lineage("v13")
    assert not found.are_applied
    (line,) = [line for line in describe_lineage(found) if line.startswith("corrections")]
    assert line.startswith("corrections  1 (drop 1), sha256 ")
    assert line.endswith("; NOT applied: dvc.lock has another file, so run `dvc repro` and commit it")


def test_corrections_that_the_revision_does_not_have(repository):
    params = (repository / "params.yaml").read_text()
    for number, path in enumerate(("data/none.csv", "../none.csv", "/none.csv"), start=12):
        (repository / "params.yaml").write_text(params.replace("data/corrections.csv", path))
        write(repository, number, ("a", "training"))
        found = find_lineage(f"v{number}")
        assert f"corrections: {path}" in found.params
        assert "corrections  none: the revision has no file of them" in describe_lineage(found)
    # A file that DVC tracks, in a clone without its cache: what the corrections were is unknown.
    (repository / "params.yaml").write_text(params.replace("data/corrections.csv", "data/tracked.csv"))
    (repository / "data/tracked.csv.dvc").write_text(f"outs:\n- md5: {'a' * 32}\n  path: tracked.csv\n")
    write(repository, 15, ("a", "training"))
    with pytest.raises(AbsentFile, match=r"^data/tracked\.csv of .*: not in git, in DVC's cache or on its remote"):
        find_lineage("v15")


def test_what_is_no_image_is_no_answer(workspace):
    """Not "no classifier has seen it": that would be the answer to another question."""
    (workspace / "folder").mkdir()
    (workspace / "image.png").write_bytes(b"x")
    os.mkfifo(workspace / "pipe")
    (workspace / "loop").symlink_to("loop")
    absent = ["imgae.png", "folder/imgae.png", "c" * 63, "c" * 65, "g" * 64, "nul\0"]
    for image, got in [
        ("folder", "a folder"),
        ("pipe", "no regular file"),
        ("loop", "Too many levels of symbolic links"),
        ("image.png/x", "Not a directory"),
        ("x" * 300, "File name too long"),
        *((name, "no such file") for name in absent),
    ]:
        message = (
            f"--image: wanted the file of an image or its whole SHA-256 (64 hexadecimal digits), got {image!r}: {got}"
        )
        for more in ([], ["--json"]):
            answer = CliRunner().invoke(cli.app, ["lineage", "--image", image, *more])
            assert (answer.output, type(answer.exception), str(answer.exception)) == ("", IntegrityError, message)


def test_without_tags_nothing_is_known(repository):
    """As in a clone that was made without tags."""
    for tag in list_tags():
        git(repository, "tag", "--delete", tag)
    message = (
        r"^wanted a tag classifier@vN.0.0, got none: nothing was promoted here, or `git fetch --tags` brings them$"
    )
    with pytest.raises(IntegrityError, match=message):
        find_image_uses("c" * 64)


def test_a_classifier_whose_images_are_not_known_is_an_error(repository):
    """It may have seen the image."""
    git(repository, "rm", "--quiet", "--cached", "data/manifest.csv")
    (repository / "data" / "manifest.csv").unlink()
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "x")
    git(repository, "tag", "classifier@v12.0.0")
    answer = CliRunner().invoke(cli.app, ["lineage", "--image", "c" * 64])
    assert answer.output == "classifier@v10.0.0  validation\n"
    assert isinstance(answer.exception, IntegrityError)
    message = (
        r"classifier@v12\.0\.0: its images are unknown: data/manifest.csv of classifier@v12\.0\.0: not in git, in DVC"
    )
    assert re.match(message, str(answer.exception))
    answer = CliRunner().invoke(cli.app, ["lineage", "--image", "c" * 64, "--json"])
    assert json.loads(answer.output)["splits"] == {"classifier@v10.0.0": "validation"}
    assert isinstance(answer.exception, IntegrityError)


def test_a_damaged_object_of_the_cache_is_no_answer(repository):
    """DVC takes a file of its cache for sound if it may not be written to."""
    git(repository, "rm", "--quiet", "--cached", "data/manifest.csv")
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "data/manifest.csv"], cwd=repository, check=True)
    commit(repository)
    git(repository, "tag", "classifier@v12.0.0")
    tagged = ("classifier@v12.0.0", "evaluation")
    assert find_image_uses("a" * 64)[0][0] == tagged
    (place,) = [path for path in (repository / ".dvc" / "cache" / "files").rglob("*") if path.is_file()]
    damage(place)
    found, (unknown,) = find_image_uses("a" * 64)
    assert tagged not in found
    assert (
        f"the object {place.relative_to(repository)} of DVC's cache is damaged; remove it, then `dvc pull` brings it"
        in unknown
    )
    place.unlink()
    assert "not in git, in DVC's cache or on its remote" in find_image_uses("a" * 64)[1][0]


def damage(place):
    content = place.read_bytes()
    place.chmod(0o644)
    place.write_bytes(content.replace(b"a", b"e"))
    place.chmod(0o444)
