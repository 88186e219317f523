import hashlib
import subprocess
import sys
from functools import partial

import pytest

from conftest import commit, git, init_dvc
from relearn import paths
from relearn.errors import AbsentFile, IntegrityError
from relearn.repository.committed import read_committed

CONTENT = b"sha256,split\na,training\n"


@pytest.fixture
def repository(workspace):
    """A repository of DVC whose manifest is in git."""
    git(workspace, "init", "--quiet")
    init_dvc(workspace)
    paths.MANIFEST.parent.mkdir(parents=True, exist_ok=True)
    paths.MANIFEST.write_bytes(CONTENT)
    commit(workspace)
    return workspace


def damage(place):
    content = place.read_bytes()
    place.chmod(0o644)
    place.write_bytes(content.replace(b"a", b"e"))
    place.chmod(0o444)


def test_a_file_of_git_is_read_as_a_revision_has_it(repository):
    (repository / paths.MANIFEST).write_text("later")
    commit(repository)
    assert read_committed(repository, "HEAD~1", paths.MANIFEST) == CONTENT
    assert read_committed(repository, "HEAD", paths.MANIFEST) == b"later"


@pytest.mark.parametrize(("revision", "path"), [("HEAD", "nothing"), ("nothing", "params.yaml")])
def test_what_no_place_has_is_absent(repository, revision, path):
    message = rf"^{path} of {revision}: not in git, in DVC's cache or on its remote: "
    with pytest.raises(AbsentFile, match=message):
        read_committed(repository, revision, paths.Path(path))


def test_a_damaged_object_of_dvc_2_is_no_answer(repository):
    """Its hash is that of the text with the ends of lines as on Unix, and it lies elsewhere in the cache."""
    unix = (repository / "data" / "manifest.csv").read_bytes()
    content = unix.replace(b"\n", b"\r\n")
    md5 = hashlib.md5(unix, usedforsecurity=False).hexdigest()
    git(repository, "rm", "--quiet", "--cached", "data/manifest.csv")
    (repository / "data" / "manifest.csv").unlink()
    (repository / "data" / "manifest.csv.dvc").write_text(f"outs:\n- md5: {md5}\n  path: manifest.csv\n")
    place = repository / ".dvc" / "cache" / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    place.chmod(0o444)
    commit(repository)
    assert read_committed(repository, "HEAD", paths.MANIFEST) == content
    damage(place)
    with pytest.raises(
        IntegrityError, match=rf"^data/manifest.csv of HEAD: wanted md5 {md5}, got .*: the object {place}"
    ):
        read_committed(repository, "HEAD", paths.MANIFEST)


def test_a_damaged_object_of_the_remote_is_told_apart_from_one_of_the_cache(repository, tmp_path):
    remote = tmp_path / "remote"
    execute = partial(subprocess.run, cwd=repository, check=True)
    git(repository, "rm", "--quiet", "--cached", "data/manifest.csv")
    execute([sys.executable, "-m", "dvc", "remote", "add", "--quiet", "--default", "there", str(remote)])
    execute([sys.executable, "-m", "dvc", "add", "--quiet", "data/manifest.csv"])
    remote.mkdir()
    (repository / ".dvc" / "cache" / "files").rename(remote / "files")
    commit(repository)
    assert read_committed(repository, "HEAD", paths.MANIFEST)
    (place,) = [path for path in remote.rglob("*") if path.is_file()]
    damage(place)
    with pytest.raises(
        IntegrityError, match=r"DVC's remote has other bytes under this hash; remove them, and `dvc push` "
    ):
        read_committed(repository, "HEAD", paths.MANIFEST)


def test_a_repository_of_dvc_in_a_folder_of_a_larger_one_of_git(workspace, monkeypatch):
    """A revision is read as at the top: files of git, files of DVC, and the cache that is named if one is damaged."""
    git(workspace, "init", "--quiet")
    inner = workspace / "in ner" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    for options in (["init", "--quiet", "--subdir"], ["config", "cache.dir", "objects"]):
        subprocess.run([sys.executable, "-m", "dvc", *options], check=True)
    for name in (paths.MANIFEST, paths.EXCLUDED):
        name.parent.mkdir(exist_ok=True)
        name.write_bytes(CONTENT)
    subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", str(paths.MANIFEST)], check=True)
    commit(workspace)
    paths.EXCLUDED.write_text("later")
    assert read_committed(paths.Path(), "HEAD", paths.EXCLUDED) == CONTENT
    assert read_committed(inner, "HEAD", paths.MANIFEST) == CONTENT
    (place,) = (inner / "objects" / "files" / "md5").glob("*/*")
    damage(place)
    with pytest.raises(
        IntegrityError, match=rf"^data/manifest.csv of HEAD: wanted md5 .*: the object .*/objects/.*/{place.name} of"
    ):
        read_committed(paths.Path(), "HEAD", paths.MANIFEST)
    with pytest.raises(AbsentFile, match=r"^params.yaml of HEAD: not in git, in DVC's cache or on its remote: "):
        read_committed(paths.Path(), "HEAD", paths.PARAMS)
