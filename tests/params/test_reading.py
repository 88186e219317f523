import itertools
from pathlib import Path

import pytest

from conftest import ROOT, read_params_error
from relearn.errors import ParamsError
from relearn.params.pipeline import read_params
from relearn.params.reading import RENAMED


def test_all_problems_are_told_at_once(workspace, set_params):
    set_params(
        {
            "train.logistic_regression.C": [0.1, -1],
            "train.scale": "yes",
            "extract.newtork": "vgg16",
            "evaluate.seed": -1,
        }
    )
    lines = read_params_error().splitlines()
    assert lines[0] == "params.yaml: 4 errors"
    assert "  extract.newtork: unknown key, did you mean network?; known here are network, weights, " in lines[1]
    assert lines[2:] == [
        "  train.scale: wanted a valid boolean, got 'yes'",
        "  train.logistic_regression.C.1: wanted greater than or equal to 0.000000001, got -1",
        "  evaluate.seed: wanted greater than or equal to 0, got -1",
    ]


def test_missing_key_is_told(workspace):
    text = Path("params.yaml").read_text().replace("  image_size_px: auto ", "  # ", 1)
    Path("params.yaml").write_text(text)
    assert read_params_error() == "params.yaml: 1 error\n  extract.image_size_px: missing, and there is no default"


def test_unknown_block_is_told(workspace):
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "\ntrian: {}\n")
    assert (
        "trian: unknown key, did you mean train?; known here are restructure, validate, augment, finetune, "
        in read_params_error()
    )


def test_unknown_key_of_an_inner_block_is_told(workspace, set_params):
    set_params({"restructure.splits.test": "test"})
    assert (
        "restructure.splits.test: unknown key; known here are training, validation, evaluation" in read_params_error()
    )


def test_twenty_errors_are_enough(workspace):
    extra = "".join(f"key{number}: 1\n" for number in range(3_000))
    Path("params.yaml").write_text(Path("params.yaml").read_text() + extra)
    lines = read_params_error().splitlines()
    assert lines[0] == "params.yaml: 3,000 errors"
    assert lines[1].startswith("  key0: unknown key; known here are restructure, validate, ")
    assert lines[21:] == ["  and 2980 more"]


def test_values_in_errors_are_cut(workspace, set_params):
    set_params({"train.head": "x" * 100_000, "train.scale": list(range(10_000)), "train.seed": {"k" * 50_000: 1}})
    lines = read_params_error().splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) < 500
    assert "got 'xxxx" in lines[1] + lines[2] + lines[3]


def test_values_behind_aliases_are_cut_as_a_whole(workspace):
    """Four blocks that are the same 10,000 texts, none of which is long or deep by itself."""
    lines = [f"a: &a {'x' * 200}"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in itertools.pairwise("abcde")]
    lines += [f"{block}: *e" for block in ("train", "extract", "verify", "evaluate")]
    Path("params.yaml").write_text("\n".join(lines))
    error = read_params_error()
    assert "  train: wanted a block with the keys head, scale, " in error
    assert ", got [['xxx" not in error
    assert ", got [[[...], [...], " in error
    assert len(error) < 8000
    assert max(map(len, error.splitlines())) < 1000


def test_a_text_in_the_words_of_a_rule_is_cut(workspace, set_params):
    set_params({"extract.weights": "w" * 100_000, "extract.weights_sha256": None})
    assert "wanted weights_sha256 beside the path www" in (error := read_params_error())
    assert len(error) < 1000


def test_unknown_key_is_named_whatever_it_is(workspace, set_params):
    set_params({"extract.batch size": 3, "verify." + "k" * 5000: 1})
    lines = read_params_error().splitlines()
    assert lines[1].startswith(
        "  extract.'batch size': unknown key, did you mean batch_size?; known here are network, "
    )
    assert lines[2].startswith("  verify.'kkkk")
    assert len(lines[2]) < 500


def test_a_key_that_was_renamed_is_one_error_that_names_the_new_one(tmp_path):
    """Not an unknown key and a missing one."""
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    for old, new in RENAMED.items():
        block, name = new.split(".")
        assert f"\n  {name}: " in text
        path.write_text(text.replace(f"\n  {name}: ", f"\n  {old.split('.')[1]}: "))
        with pytest.raises(ParamsError) as caught:
            read_params(path)
        assert str(caught.value) == f"{path}: 1 error\n  {old}: was renamed; call it {new}"
        path.write_text(text.replace(f"{block}:", f"{block}:\n  {old.split('.')[1]}: 0.1", 1))
        with pytest.raises(ParamsError, match=r": 1 error\n  .* was renamed; call it "):
            read_params(path)
