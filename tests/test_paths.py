import os
from pathlib import Path

import pytest

from relearn import paths
from relearn.errors import ParamsError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"gitdir: /main/.git/worktrees/x\n", "/main/.relearn"),
        (b"gitdir: ../main/.git/worktrees/x\n", "../main/.relearn"),
        (b"gitdir: /caf\xe9/.git/worktrees/x\n", os.fsdecode(b"/caf\xe9/.relearn")),
        (b"gitdir: worktrees/x", ".relearn"),
        (b"gitdir: /main/\0/worktrees/x", ".relearn"),
        (b"\xff\xfe\0", ".relearn"),
        (b"", ".relearn"),
    ],
)
def test_cache_beside_a_git_file_of_any_bytes(workspace, content, expected):
    Path(".git").write_bytes(content)
    assert paths.find_cache() == Path(expected)


def test_a_pipe_in_the_place_of_git_is_not_waited_for(workspace):
    os.mkfifo(".git")
    assert paths.find_cache() == Path(".relearn")


def test_cache_in_the_home_of_nobody_is_told(workspace, monkeypatch):
    monkeypatch.setenv("RELEARN_CACHE", "~no-such-user/x")
    with pytest.raises(ParamsError, match="RELEARN_CACHE: wanted a folder, got '~no-such-user/x', the home of nobody"):
        paths.find_cache()
