import pandas as pd

from relearn.dataset.manifest import ManifestRow
from relearn.gates.feature_checks import FEATURE_CHECKS, compare_order, find_twins
from relearn.params.data import VerifyParams


def test_a_check_is_a_row_of_the_table_and_a_field_of_the_parameters():
    assert list(FEATURE_CHECKS) == list(VerifyParams.model_fields)


def test_order_names_rows_that_are_missing_or_too_many():
    row = ManifestRow("x", "training", "a", "1", 1, 1, 1, "L", "PNG")
    table = compare_order([row, row._replace(sha256="2")], [])
    assert list(table["found"]) == ["nothing", "nothing"]
    assert list(table["is_same"]) == [False, False]


def test_twins_are_of_other_bytes_and_another_split_and_quickly_found():
    rows = pd.DataFrame(
        {
            "split": ["training", "training", "evaluation", "evaluation", "training"],
            "sha256": ["1", "2", "1", "3", "4"],
            "content": ["x", "x", "x", "x", "y"],
            "path": ["a", "b", "c", "d", "e"],
        }
    )
    assert find_twins(rows) == ["d", "c", "b", "a", ""]
    assert find_twins(rows[:1]) == [""]
    n_rows = 50_000  # of a network that gives the same for each image
    same = pd.DataFrame({"split": ["training", "evaluation"] * (n_rows // 2), "content": "x"})
    same["sha256"] = same["path"] = same.index.astype(str)
    assert all(find_twins(same))
