import hashlib
import json

import pytest

from relearn.errors import IntegrityError
from relearn.repository.dvc_files import list_outputs, list_stage_outputs
from relearn.repository.tracked import check_outputs, find_object, hash_as_dvc, list_members

PIPELINE = """
stages:
  extract: {cmd: x, outs: [data/photos]}
  train: {matrix: {n: [a]}, cmd: x, outs: ["data/${item.n}"]}
  train_more: {cmd: x}
"""
FILES = {"cat/1.png": b"one", "cat/2.png": b"two\r\n", "dog/1.png": b"three"}


def hash_md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def keep(cache, content, end=""):
    """Put an object into a cache as DVC does, and return its hash."""
    md5 = hash_md5(content) + end
    path = find_object(cache, md5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    return md5


@pytest.fixture
def repository(tmp_path):
    """A folder of three files and one file, each tracked by a `.dvc` file and checked out."""
    cache = tmp_path / "cache"
    entries = []
    for name, content in FILES.items():
        (tmp_path / "data" / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "photos" / name).write_bytes(content)
        entries.append({"md5": keep(cache, content), "relpath": name})
    listing = keep(cache, json.dumps(entries).encode(), ".dir")
    (tmp_path / "data" / "photos.dvc").write_text(f"outs:\n- {{md5: {listing}, hash: md5, path: photos}}\n")
    (tmp_path / "data" / "file").write_bytes(b"a file")
    md5 = keep(cache, b"a file")
    (tmp_path / "file.dvc").write_text(f"wdir: data\nouts:\n- {{md5: {md5}, hash: md5, path: file}}\n")
    lock = {
        "extract": {"outs": [{"path": "data/photos", "hash": "md5", "md5": listing}]},
        "train@a": {"outs": [{"path": "data/file", "hash": "md5", "md5": md5}]},
        "train_more": {"cmd": "x"},
    }
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    return tmp_path


def check(repository):
    check_outputs(repository, list_outputs(repository, ["data/photos.dvc", "file.dvc"]), repository / "cache")


def damage(path, content=b"other"):
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def test_what_is_sound(repository):
    check(repository)
    for stage in ("extract", "train", "train_more", "none"):
        check_outputs(repository, list_stage_outputs(repository, stage), repository / "cache")
    assert [len(list_stage_outputs(repository, stage)) for stage in ("extract", "train", "train_more")] == [1, 1, 0]
    (output,) = list_outputs(repository, ["data/photos.dvc"])
    assert list_members(output, repository / "cache") == {name: hash_md5(content) for name, content in FILES.items()}


@pytest.mark.parametrize("name", [*FILES, "file"])
def test_a_damaged_object_is_named(repository, name):
    """It is what was checked out, by a copy or a link."""
    path = f"data/{name}" if name == "file" else f"data/photos/{name}"
    md5 = hash_as_dvc(repository / path)
    place = find_object(repository / "cache", md5)
    damage(place)
    (repository / path).write_bytes(b"other")
    named_by = "file.dvc" if name == "file" else "data/photos.dvc"
    message = (
        rf"^{path}: wanted md5 {md5} by {named_by}, got {hash_md5(b'other')}: the object {place} of DVC's cache is "
        "damaged; remove it, then `dvc pull` "
    )
    with pytest.raises(IntegrityError, match=message):
        check(repository)


def test_what_is_not_there_or_was_changed_is_told_apart_from_a_damaged_object(repository):
    (repository / "data" / "photos" / "cat" / "1.png").unlink()
    with pytest.raises(IntegrityError, match=r"got no such file: it was changed after DVC checked it out from "):
        check(repository)
    for name in FILES:
        (repository / "data" / "photos" / name).write_bytes(b"changed")
    (repository / "data" / "file").write_bytes(b"changed")
    with pytest.raises(IntegrityError, match=r" \(and 1 more\)$"):
        check(repository)


def test_a_damaged_list_of_files_is_named(repository):
    """An image less in it would be an image less in the data."""
    (output,) = list_outputs(repository, ["data/photos.dvc"])
    place = find_object(repository / "cache", output.md5)
    damage(place, json.dumps(json.loads(place.read_bytes())[1:]).encode())
    with pytest.raises(IntegrityError, match=rf"^data/photos: the object {place} of DVC's cache is damaged; remove it"):
        check(repository)
    place.unlink()
    with pytest.raises(IntegrityError, match=rf"^data/photos: {place}, the list of its files, is missing; `dvc fetch "):
        check(repository)


@pytest.mark.parametrize(
    "written", ["data/photos: {cache: false}", "./data/photos: {cache: false}", "'data/${name}': {cache: false}"]
)
def test_a_folder_that_git_has_and_not_dvc_is_left_out(repository, written):
    """Of it DVC keeps no list of the files, which no fetch would bring."""
    (cached,) = list_stage_outputs(repository, "extract")
    find_object(repository / "cache", cached.md5).unlink()
    with pytest.raises(IntegrityError, match="the list of its files, is missing"):
        check_outputs(repository, [cached], repository / "cache")
    (repository / "dvc.yaml").write_text(f"stages: {{extract: {{cmd: x, outs: [{{{written}}}]}}}}")
    check_outputs(repository, list_stage_outputs(repository, "extract"), repository / "cache")
    (repository / "dvc.yaml").write_text("stages: {extract: {cmd: x, outs: [{data/photo: {cache: false}}]}}")
    assert list_stage_outputs(repository, "extract") == [cached]
    content = (repository / "data" / "photos.dvc").read_text()
    (repository / "data" / "photos.dvc").write_text(content.replace("path: photos", "path: photos, cache: false"))
    check(repository)
    (output,) = list_outputs(repository, ["data/photos.dvc"])
    with pytest.raises(
        IntegrityError, match=r"^data/photos: wanted a folder whose files DVC lists, got cache: false in"
    ):
        list_members(output, repository / "cache")


def test_a_file_that_git_has_and_not_dvc_is_held_against_its_hash(repository):
    (repository / "dvc.yaml").write_text("stages: {train: {cmd: x, metrics: [{data/file: {cache: false}}]}}")
    outputs = list_stage_outputs(repository, "train")
    assert [output.is_cached for output in outputs] == [False]
    check_outputs(repository, outputs, repository / "cache")
    (repository / "data" / "file").write_bytes(b"changed")
    with pytest.raises(IntegrityError, match=r"^data/file: wanted md5 .*: it was changed after it was made; run this"):
        check_outputs(repository, outputs, repository / "cache")


def test_files_that_are_listed_one_by_one(repository):
    files = "".join(f"  - {{relpath: {name}, md5: {hash_md5(content)}}}\n" for name, content in FILES.items())
    (repository / "data" / "photos.dvc").write_text(f"outs:\n- path: photos\n  hash: md5\n  files:\n{files}")
    check(repository)
    (repository / "data" / "photos" / "cat" / "1.png").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"^data/photos/cat/1.png: wanted md5 "):
        check(repository)
    (repository / "data" / "photos.dvc").write_text("outs:\n- path: photos\n")
    with pytest.raises(IntegrityError, match=r"^data/photos.dvc: photos: wanted an md5, got none; run `dvc commit"):
        check(repository)


def test_hashes_of_dvc_2(repository):
    """Their texts are hashed with other ends of lines, and their objects lie elsewhere in the cache."""
    md5 = hash_md5(b"a\nb\n")
    (repository / "file.dvc").write_text(f"wdir: data\nouts:\n- {{md5: {md5}, path: file}}\n")
    (repository / "data" / "file").write_bytes(b"a\r\nb\r\n")
    check(repository)
    (repository / "data" / "file").write_bytes(b"a\r\nc\r\n")
    with pytest.raises(IntegrityError, match=rf"checked it out from {repository}/cache/{md5[:2]}/{md5[2:]}; run this"):
        check(repository)
