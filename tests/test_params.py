import itertools
import time
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from conftest import ROOT
from relearn.errors import ParamsError
from relearn.images.formats import FORMATS
from relearn.params.data import Format
from relearn.params.pipeline import read_params
from relearn.params.reading import RENAMED


def read_error(path=Path("params.yaml")):
    with pytest.raises(ParamsError) as caught:
        read_params(path)
    return str(caught.value)


def test_repository_params_are_valid_and_frozen(root):
    params = read_params(root / "params.yaml")
    assert params.get_block("validate").min_images == params.validate_.min_images
    assert params.get_block("train").logistic_regression.C
    with pytest.raises(ValidationError, match="frozen"):
        params.train.scale = False


def test_all_problems_are_told_at_once(workspace, set_params):
    set_params(
        {
            "train.logistic_regression.C": [0.1, -1],
            "train.scale": "yes",
            "extract.newtork": "vgg16",
            "evaluate.seed": -1,
        }
    )
    lines = read_error().splitlines()
    assert lines[0] == "params.yaml: 4 wrong"
    assert "  extract.newtork: unknown key; known here are network, weights, weights_sha256, seed, layer, " in lines[1]
    assert lines[2:] == [
        "  train.scale: wanted a valid boolean, got 'yes'",
        "  train.logistic_regression.C.1: wanted greater than or equal to 0.000000001, got -1",
        "  evaluate.seed: wanted greater than or equal to 0, got -1",
    ]


def test_missing_key_is_told(workspace):
    text = Path("params.yaml").read_text().replace("  batch_size: 32\n", "", 1)
    Path("params.yaml").write_text(text)
    assert read_error() == "params.yaml: 1 wrong\n  extract.batch_size: missing, and there is no default"


def test_unknown_block_is_told(workspace):
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "\ntrian: {}\n")
    assert "trian: unknown key; known here are restructure, validate, extract, verify, train, evaluate" in read_error()


def test_unknown_key_of_an_inner_block_is_told(workspace, set_params):
    set_params({"restructure.splits.test": "test"})
    assert "restructure.splits.test: unknown key; known here are training, validation, evaluation" in read_error()


def test_unknown_network_answers_with_the_list(workspace, set_params):
    set_params({"extract.network": "vgg"})
    assert "extract.network: wanted one of 'convnext_base'" in (error := read_error())
    assert "'vgg16', 'vgg19' or 'xception', got 'vgg'" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extract.weights": "w.h5", "extract.weights_sha256": None},
            r"extract: wanted weights_sha256 beside the path w.h5 (`sha256sum w.h5` prints it)",
        ),
        ({"extract.weights": "random"}, "extract: wanted weights_sha256: null with weights: random"),
        (
            {"extract.weights": "imagenet", "extract.weights_sha256": None},
            "extract: wanted weights: random or a path with mini_vgg, got imagenet, which the other networks",
        ),
        (
            {"extract.weights": "w.h5", "extract.weights_sha256": "abc"},
            "extract.weights_sha256: wanted 64 hexadecimal digits, got 'abc'",
        ),
        ({"restructure.layout": "food5k"}, "restructure: wanted labels for layout food5k"),
        ({"restructure.layout": "csv"}, "restructure: wanted labels_csv for layout csv"),
        ({"restructure.fractions.evaluation": 0.8}, "restructure.fractions: wanted validation + evaluation below 1"),
        ({"restructure.splits.validation": "training"}, "restructure.splits: wanted three different names"),
        ({"extract.image_size_px": 32.5}, "extract.image_size_px: wanted a valid integer, got 32.5"),
        ({"extract.pooling": "mean"}, "extract.pooling: wanted one of 'flatten', 'avg' or 'max', got 'mean'"),
        ({"validate.modes.severity": "fatal"}, "validate.modes.severity: wanted one of 'error', 'warn' or 'off', got"),
        ({"validate.modes.allowed": ["HSV"]}, "validate.modes.allowed.0: wanted one of '1', 'L', 'LA'"),
        ({"validate.width_px.min": 30_000}, "validate.width_px: wanted max of at least min, which is 30000, got 20000"),
        ({"validate.min_images": 5}, "validate.min_images: wanted a block with the keys severity, min, got 5"),
        ({"validate.contrast.max": 3}, "validate.contrast.max: unknown key; known here are severity, min"),
        ({"train.logistic_regression.C": []}, "train.logistic_regression.C: wanted"),
        (
            {"train.logistic_regression.C": 0},
            "train.logistic_regression.C.0: wanted greater than or equal to 0.000000001, got 0",
        ),
        (
            {"train.linear_svm.C": 1e12},
            "train.linear_svm.C.0: wanted less than or equal to 1000000000, got 1000000000000",
        ),
        ({"train.head": "svm"}, "train.head: wanted one of 'nearest_centroid', 'logistic_regression'"),
        ({"train.search": [{"head": "svm"}]}, "train.search.0: wanted"),
        (
            {"train.search": [{"head": "dense", "unit": 3}]},
            "train.search.0.dense.unit: unknown key; known here are units",
        ),
        ({"train.search": [{"head": "linear_svm", "C": -1}]}, "train.search.0.linear_svm.C.0: wanted greater than"),
        ({"train.search": 3}, "train.search: wanted a valid list, got 3"),
        (
            {"train.calibration": "none", "train.head": "linear_svm"},
            "train: wanted calibration: auto, temperature, sigmoid or isotonic with linear_svm, got none",
        ),
        ({"train.class_weight": "half"}, "train.class_weight"),
        ({"restructure.labels": {True: "a"}}, "wanted a valid string, got True"),
        ({"restructure.labels": {"a": 0}}, "restructure.labels.a: wanted a valid string, got 0"),
    ],
)
def test_values_out_of_range(workspace, set_params, changes, message):
    set_params(changes)
    assert message in read_error()


def test_numbers_are_those_of_yaml_1_2(workspace):
    """DVC reads 1e-3 as a number; YAML 1.1 would make a text of it."""
    text = Path("params.yaml").read_text().replace("tol: 1.0e-4", "tol: 1e-3")
    Path("params.yaml").write_text(text)
    assert read_params(Path("params.yaml")).train.logistic_regression.tol == 0.001


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "params.yaml: wanted YAML, got: "),
        (b"a: 1\na: 2\n", "params.yaml: wanted YAML, got: "),
        (b"\x80a", "params.yaml: wanted YAML, got: "),
        (b"", "the whole file: wanted"),
        (b"[1, 2]", "the whole file: wanted"),
    ],
)
def test_what_is_no_params_file(workspace, content, message):
    Path("params.yaml").write_bytes(content)
    assert message in read_error()


def test_no_params_file(tmp_path):
    assert "params.yaml: no such file; run from the folder that has it" in read_error(tmp_path / "params.yaml")


def test_labels_may_be_numbers(workspace, set_params):
    set_params({"restructure.labels": {0: "non_food", "1": "food"}})
    assert read_params(Path("params.yaml")).restructure.labels == {"0": "non_food", "1": "food"}


def test_severity_off_is_a_word_to_yaml_of_all_versions(workspace, set_params):
    for off in ("off", False):
        set_params({"validate.modes.severity": off})
        assert read_params(Path("params.yaml")).validate_.modes.severity == "off"


def test_formats_are_those_that_are_read():
    assert get_args(Format) == FORMATS


@pytest.mark.slow
def test_dvc_writes_a_search_and_takes_it_away_again(workspace):
    """Its writer of YAML moves comments about, and once broke the file."""
    from dvc.utils.serialize import modify_yaml

    for search in ([{"head": "dense", "units": [8, 16]}, {"head": "linear_svm"}], [], [{"head": "dense"}], []):
        with modify_yaml("params.yaml") as content:
            content["train"]["search"] = search
        assert [entry.head for entry in read_params(Path("params.yaml")).train.search] == [e["head"] for e in search]


# --- files that are made to be read for ever -------------------------------------------------------------------------


def multiply_aliases(n_levels: int = 40) -> str:
    """Return blocks in which each list holds the one before it ten times: 10 to the power of `n_levels` values."""
    lines = ["a0: &a0 [1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, n_levels)]
    return "\n".join(lines)


def merge_aliases(n_levels: int = 15) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for level in range(1, n_levels):
        lines.append(f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}], k{level}: 1}}")
    return "\n".join(lines)


HOSTILE = [
    (multiply_aliases(), "params.yaml: line 6: wanted at most 200,000 values, got more, by aliases (*name)"),
    (multiply_aliases(7) + "\nb: {c: *a6}", "wanted at most 200,000 values, got more, by aliases (*name)"),
    (merge_aliases(), "values, got more, by aliases (*name)"),
    ("a: &a [*a]", "params.yaml: line 1: wanted at most 20 levels of blocks and lists, got more"),
    ("a: &a {b: *a}", "wanted at most 20 levels of blocks and lists, got more"),
    ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000)), "wanted at most 20 levels"),
    ("a: " + "[" * 900 + "]" * 900, "params.yaml: line 1: wanted at most 20 levels of blocks and lists, got more"),
    ("a: " + "{b: " * 5000 + "}" * 5000, "params.yaml: line 1: wanted at most 20 levels of blocks and lists, got more"),
    ("".join(" " * n + "a:\n" for n in range(500)), "wanted at most 20 levels of blocks and lists, got more"),
    ("a: " + "1" * 5000, "params.yaml: line 1: wanted a number of at most 100 characters, got 5,000"),
    ("a: 0x" + "f" * 50_000, "wanted a number of at most 100 characters, got 50,002"),
    ("a: 1e" + "9" * 500, "wanted a number of at most 100 characters, got 502"),
    ("\n" * 3_000_000, "params.yaml: wanted at most 1,000,000 bytes, got more"),
    ("a: !!binary aGVsbG8=", "line 1: wanted text, numbers, true, false, null, lists and blocks, got !!binary"),
    ("a: 2026-01-01", "got !!timestamp; put it in quotes"),
    ("a: !!python/object/apply:os.system [true]", "got !!python/object/apply:os.system"),
    ("a: !new 1", "got !new"),
    ("a: !!set {b, c}", "got !!set"),
    ("a: !!int ''", "params.yaml: wanted YAML, got: "),
    ("a: !!int abc", "params.yaml: wanted YAML, got: "),
    ("a: !!bool maybe", "params.yaml: wanted YAML, got: "),
    ("a: !!float [1]", "params.yaml: wanted YAML, got: "),
    ("{[1, 2]: 3, {a: b}: 4}", "params.yaml: line 1: wanted keys that are texts or numbers, got a list as a key"),
    ("a: &a [[1]]\n*a : 2", "params.yaml: line 1: wanted keys that are texts or numbers, got a list as a key"),
    ("a:\n  {b: c}: 4", "params.yaml: line 2: wanted keys that are texts or numbers, got a block as a key"),
    ("? !!set {a, b}\n: 1", "got a block as a key"),
    ('a: "x\\0y"', "params.yaml: line 1: wanted text, got a control character in 'x\\x00y'; remove it"),
    ('a: "\\e[2J"', "params.yaml: line 1: wanted text, got a control character in '\\x1b[2J'; remove it"),
    ('a: "\\ud800"', "params.yaml: "),
    ("%YAML 1.1\n---\na: 1:" + "59:" * 50 + "1", "wanted a number of at most 100 characters"),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_files_that_are_made_to_be_read_for_ever(workspace, number):
    content, message = HOSTILE[number]
    Path("params.yaml").write_text(content)
    start = time.monotonic()
    error = read_error()
    assert message in error
    assert len(error) < 8000
    assert max(map(len, error.splitlines())) < 1000
    assert time.monotonic() - start < 10


def test_aliases_that_stay_small_are_read(workspace):
    text = Path("params.yaml").read_text()
    text = text.replace("columns: {severity: error}", "columns: &rule {severity: warn}", 1)
    text = text.replace("complete: {severity: error}", "complete: *rule", 1)
    text = text.replace("types: {severity: error}", "types: {<<: *rule}", 1)
    Path("params.yaml").write_text(text)
    params = read_params(Path("params.yaml")).validate_
    assert [params.columns.severity, params.complete.severity, params.types.severity] == ["warn"] * 3


def test_an_anchor_may_take_the_name_of_an_earlier_one(workspace):
    """As YAML 1.2 allows; the reader would print a warning of many lines."""
    text = Path("params.yaml").read_text()
    text = text.replace("columns: {severity: error}", "columns: &rule {severity: error}", 1)
    text = text.replace("complete: {severity: error}", "complete: &rule {severity: warn}", 1)
    text = text.replace("types: {severity: error}", "types: *rule", 1)
    Path("params.yaml").write_text(text)
    assert read_params(Path("params.yaml")).validate_.types.severity == "warn"


def test_as_many_classes_as_there_are_anywhere_are_read(workspace, set_params):
    labels = {f"n{number:08}": f"class {number}" for number in range(5_000)}
    set_params({"restructure.labels": labels})
    assert read_params(Path("params.yaml")).restructure.labels == labels


def test_twenty_errors_are_enough(workspace):
    extra = "".join(f"key{number}: 1\n" for number in range(3_000))
    Path("params.yaml").write_text(Path("params.yaml").read_text() + extra)
    lines = read_error().splitlines()
    assert lines[0] == "params.yaml: 3000 wrong"
    assert lines[1].startswith("  key0: unknown key; known here are restructure, validate, ")
    assert lines[21:] == ["  and 2980 more"]


def test_values_in_errors_are_cut(workspace, set_params):
    set_params({"train.head": "x" * 100_000, "train.scale": list(range(10_000)), "train.seed": {"k" * 50_000: 1}})
    lines = read_error().splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) < 500
    assert "got 'xxxx" in lines[1] + lines[2] + lines[3]


def test_values_behind_aliases_are_cut_as_a_whole(workspace):
    """Four blocks that are the same 10,000 texts, none of which is long or deep by itself."""
    lines = [f"a: &a {'x' * 200}"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in itertools.pairwise("abcde")]
    lines += [f"{block}: *e" for block in ("train", "extract", "verify", "evaluate")]
    Path("params.yaml").write_text("\n".join(lines))
    error = read_error()
    assert "  train: wanted a block with the keys head, scale, " in error
    assert ", got [['xxx" not in error
    assert ", got [[[...], [...], " in error
    assert len(error) < 8000
    assert max(map(len, error.splitlines())) < 1000


def test_a_text_in_the_words_of_a_rule_is_cut(workspace, set_params):
    set_params({"extract.weights": "w" * 100_000, "extract.weights_sha256": None})
    assert "wanted weights_sha256 beside the path www" in (error := read_error())
    assert len(error) < 1000


def test_unknown_key_is_named_whatever_it_is(workspace, set_params):
    set_params({"extract.batch size": 3, "verify." + "k" * 5000: 1})
    lines = read_error().splitlines()
    assert lines[1].startswith("  extract.'batch size': unknown key; known here are network, ")
    assert lines[2].startswith("  verify.'kkkk")
    assert len(lines[2]) < 500


def list_numbers(block, prefix=""):
    """Yield the dotted key of each number of the file, or of each list of them."""
    for key, value in block.items():
        if isinstance(value, dict):
            yield from list_numbers(value, f"{prefix}{key}.")
        elif any(type(part) in (int, float) for part in (value if isinstance(value, list) else [value])):
            yield prefix + key


NUMBERS = sorted(list_numbers(YAML(typ="safe", pure=True).load(ROOT / "params.yaml")))


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_are_finite_and_fit_the_machine(workspace, set_params, key):
    original = Path("params.yaml").read_text()
    for value in (float("inf"), float("-inf"), float("nan"), 10**40, 1e300):
        Path("params.yaml").write_text(original)
        set_params({key: value})
        assert f"  {key}" in read_error().replace(".0:", ":")


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
        assert str(caught.value) == f"{path}: 1 wrong\n  {old}: was renamed; call it {new}"
        path.write_text(text.replace(f"{block}:", f"{block}:\n  {old.split('.')[1]}: 0.1", 1))
        with pytest.raises(ParamsError, match=r": 1 wrong\n  .* was renamed; call it "):
            read_params(path)
