from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from conftest import ROOT, read_params_error
from relearn.params.pipeline import read_params


def test_repository_params_are_valid_and_frozen(root):
    params = read_params(root / "params.yaml")
    assert params.get_block("validate").min_images == params.validate_.min_images
    assert params.get_block("train").logistic_regression.C
    with pytest.raises(ValidationError, match="frozen"):
        params.train.scale = False


def test_no_params_file(tmp_path):
    assert "params.yaml: no such file; run from the folder that has it" in read_params_error(tmp_path / "params.yaml")


def list_numbers(block, prefix=""):
    """Yield the dotted key of each number of the file, or of each list of them."""
    for key, value in block.items():
        if isinstance(value, dict):
            yield from list_numbers(value, f"{prefix}{key}.")
        elif any(type(part) in (int, float) for part in (value if isinstance(value, list) else [value])):
            yield prefix + key


NUMBERS = sorted(list_numbers(YAML(typ="safe", pure=True).load(ROOT / "params.yaml")))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**40, 1e300])
def test_numbers_are_finite_and_fit_the_machine(workspace, set_params, value):
    original = Path("params.yaml").read_text()
    for first in range(0, len(NUMBERS), 20):  # as many errors are listed
        keys = NUMBERS[first : first + 20]
        Path("params.yaml").write_text(original)
        set_params(dict.fromkeys(keys, value))
        listed = [line.partition(":")[0].removesuffix(".0") for line in read_params_error().splitlines()[1:]]
        assert sorted(listed) == sorted(f"  {key}" for key in keys)
