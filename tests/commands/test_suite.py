import json
from pathlib import Path

import pytest

from conftest import execute, restructure, write_images
from relearn.commands.suite import export_suites
from relearn.params.pipeline import read_params


@pytest.mark.slow
def test_suites_and_tables_are_written(use_layout):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["cat/1.png", "dog/2.png"])
    restructure()
    lines = export_suites(Path("out/suites"), read_params(Path("params.yaml")).validate_)
    assert f"{Path('out/suites/images.json')}: the checks of images.csv" in lines
    suite = json.loads(Path("out/suites/images.json").read_text())
    (unique,) = [entry for entry in suite["expectations"] if entry["meta"]["check"] == "unique_paths"]
    assert unique["type"] == "expect_column_values_to_be_between"
    assert unique["kwargs"] == {"column": "n_of_path", "max_value": 1.0}
    assert unique["severity"] == "critical"
    assert Path("out/suites/images.csv").read_text().startswith("path,split,label,sha256,bytes,")


@pytest.mark.slow
def test_the_command_says_what_to_run_first(clone):
    answer = execute(clone, "relearn", "suite", "out")
    assert answer.returncode != 0
    assert "data/manifest.csv: no such file; run `dvc repro restructure`" in answer.stderr
    assert not (clone / "out").exists()
