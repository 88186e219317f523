"""What lies in data/raw/ is for DVC; git keeps the files that name it, and the sample."""

import pytest

from conftest import execute, git, write_images


def list_new(folder):
    git(folder, "add", "--all")
    return git(folder, "diff", "--cached", "--name-only").split()


@pytest.mark.slow
def test_git_takes_no_photos_and_dvc_does(clone):
    assert git(clone, "ls-files", "data/raw").split() == ["data/raw/digits.zip"]
    write_images(clone / "data" / "raw", ["birds/wren/1.png", "birds/robin/a b.png", "more/birds/wren/2.png", "3.png"])
    for name in ("birds.zip", ".partial-Food-5K", ".Food-5K.zip.from", "birds/labels.csv"):
        (clone / "data" / "raw" / name).touch()
    assert list_new(clone) == []
    answer = execute(clone, "dvc", "add", "data/raw/birds", "data/raw/birds.zip", "data/raw/more/birds")
    assert answer.returncode == 0, answer.stderr
    named = {"data/raw/birds.dvc", "data/raw/birds.zip.dvc", "data/raw/more/birds.dvc"}
    new = set(list_new(clone))
    assert named <= new
    assert {name for name in new - named if not name.endswith("/.gitignore")} == set()
