"""The tags of promoted classifiers, such as classifier@v3.0.0."""

import re
from pathlib import Path

from relearn.repository.git import run_git

# The tags that the model registry of DVC reads: https://dvc.org/doc/gto/user-guide
TAG = re.compile(r"classifier@(v[1-9][0-9]{0,8})\.0\.0")
VERSION = re.compile(r"(?:classifier@)?v?([1-9][0-9]{0,8})(?:\.0\.0)?")


def name_tag(version: str) -> str:
    """Return the tag of a version, which may be given as v3, 3, classifier@v3 or the tag itself."""
    match = VERSION.fullmatch(version)
    return f"classifier@v{match[1]}.0.0" if match else version


def list_tags(root: Path = Path()) -> list[str]:
    """Return the tags of promoted classifiers, the newest first."""
    tags = [tag for tag in run_git(root, "tag", "--list").split() if TAG.fullmatch(tag)]
    return sorted(tags, key=lambda tag: int(name_version(tag)[1:]), reverse=True)


def name_version(tag: str) -> str:
    """Return the version that a tag names, such as v3; see `TAG`."""
    return tag.removeprefix("classifier@").removesuffix(".0.0")
