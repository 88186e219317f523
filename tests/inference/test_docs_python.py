"""The examples of docs/python.md run as they stand, one after the other, as the cells of a notebook do."""

import re
import tomllib

import pytest

import relearn
from conftest import ROOT

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_examples_run(here):
    names = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert list(names["table"].columns) == ["path", "label", "cat", "dog"]
    assert names["features"].shape[0] == len(names["images"]) == 5
    assert 0 <= names["accuracy"] <= 1
    assert len(names["own_answers"]) == 5


def test_version_is_that_of_the_package():
    assert relearn.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with pytest.raises(AttributeError, match="module 'relearn' has no attribute 'x'"):
        relearn.x  # noqa: B018
