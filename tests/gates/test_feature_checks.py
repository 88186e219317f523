import numpy as np
import pandas as pd

from relearn.dataset.manifest import ManifestRow
from relearn.features.shards import IndexRow
from relearn.gates.feature_checks import FEATURE_CHECKS, compare_order, describe_rows, find_twins
from relearn.params.data import VerifyParams


def test_a_check_is_a_row_of_the_table_and_a_field_of_the_parameters():
    assert list(FEATURE_CHECKS) == list(VerifyParams.model_fields)


def test_order_names_rows_that_are_missing_or_too_many():
    row = ManifestRow("x", "training", "a", "1", 1, 1, 1, "L", "PNG")
    table = compare_order([row, row._replace(sha256="2")], [])
    assert list(table["found"]) == ["nothing", "nothing"]
    assert list(table["is_same"]) == [False, False]


def test_order_wants_as_many_views_of_each_training_image():
    training = ManifestRow("x", "training", "a", "1", 1, 1, 1, "L", "PNG")
    manifest = [training, training._replace(sha256="2"), training._replace(sha256="3", split="evaluation")]
    index = [IndexRow("s", str(n), "12"[n // 3], "training", "a", str(n % 3)) for n in range(6)]
    index.append(IndexRow("s", "0", "3", "evaluation", "a"))
    assert compare_order(manifest, index)["is_same"].all()
    table = compare_order(manifest, [*index[:5], index[6]])
    assert list(table["wanted"][4:]) == ["training/a 2 view 1", "training/a 2 view 2", "evaluation/a 3"]
    assert list(table["found"][5:]) == ["evaluation/a 3", "nothing"]
    view = index[6]._replace(view="1")
    assert list(compare_order(manifest, [*index, view])["is_same"]) == [True] * 7 + [False]


def test_rows_of_views_are_named(workspace):
    image = ManifestRow("training/x.png", "training", "a", "1", 1, 1, 1, "L", "PNG")
    other = ManifestRow("evaluation/y.png", "evaluation", "a", "2", 1, 1, 1, "L", "PNG")
    index = [IndexRow("s", str(n), "1", "training", "a", str(n)) for n in range(2)]
    shards = [
        (index, np.array([[1.0, 2.0], [2.0, 1.0]])),
        ([IndexRow("t", "0", "2", "evaluation", "a")], np.array([[2.0, 1.0]])),
    ]
    rows = describe_rows([image, other], shards)
    assert list(rows["path"]) == ["training/x.png", "training/x.png view 1", "evaluation/y.png"]
    assert list(rows["twin"]) == ["", "evaluation/y.png", "training/x.png view 1"]


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
