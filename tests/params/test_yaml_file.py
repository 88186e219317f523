import time
from pathlib import Path

import pytest

from conftest import read_params_error
from relearn.params.pipeline import read_params


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
    assert message in read_params_error()


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
    error = read_params_error()
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


@pytest.mark.slow
def test_dvc_writes_a_search_and_takes_it_away_again(workspace):
    """Its writer of YAML moves comments about, and once broke the file."""
    from dvc.utils.serialize import modify_yaml

    for search in ([{"head": "dense", "units": [8, 16]}, {"head": "linear_svm"}], [], [{"head": "dense"}], []):
        with modify_yaml("params.yaml") as content:
            content["train"]["search"] = search
        assert [entry.head for entry in read_params(Path("params.yaml")).train.search] == [e["head"] for e in search]
