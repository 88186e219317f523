import pytest

from relearn import paths
from relearn.commands.report import describe_evaluation
from relearn.errors import IntegrityError
from relearn.evaluation.metrics import CLASS_HEADER
from relearn.storage.files import write_csv, write_json


def test_report_tells_the_headlines_and_the_weakest_class(workspace):
    metrics = {"n_images": 1200, "n_classes": 3, "majority_baseline_score": 0.5, "lowest_recall_score": 0.25}
    metrics |= {"accuracy_score": 0.9, "f1_score": 1.0, "log_loss": 0.2}
    write_json(paths.EVALUATION_METRICS, metrics)
    write_json(paths.INTERVALS, {"accuracy_score": (0.85, 0.93), "f1_score": (1.0, 1.0), "log_loss": (0.1, 0.3)})
    rows = [("cat", 800, 1, 0.95, 1), ("dog", 400, 1, 0.25, 1), ("rare", 0, 0, 0, 0)]
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, rows)
    assert describe_evaluation() == [
        "1,200 evaluation images of 3 classes",
        "  accuracy           0.900  95 % interval 0.850 to 0.930",
        "  f1                 1.000  no interval: too few mistakes",
        "  log loss           0.200  95 % interval 0.100 to 0.300",
        "  majority baseline  0.500",
        "  weakest class      dog: recall 0.250 of 400 images",
    ]


def test_report_of_another_folder(workspace, tmp_path_factory, monkeypatch):
    write_json(paths.EVALUATION_METRICS, {"n_images": 1, "n_classes": 1, "majority_baseline_score": 1.0})
    write_json(paths.INTERVALS, {})
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, [("cat", 1, 1, 1, 1)])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert describe_evaluation(workspace)[0] == "1 evaluation image of 1 classes"


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        ({"x": [0, 1]}, "wanted intervals of metrics, got x: None; run `dvc repro`"),
        ({"accuracy_score": 0.5}, "wanted the low and the high end of accuracy_score, got 0.5; run"),
        (
            {"accuracy_score": [0.1, 0.5, 0.9]},
            r"wanted the low and the high end of accuracy_score, got \[0.1, 0.5, 0.9\]",
        ),
        ({"accuracy_score": ["0", "1"]}, r"wanted the low and the high end of accuracy_score, got \['0', '1'\]; run"),
        ({"accuracy_score": [0.9, 0.1]}, r"wanted the low and the high end of accuracy_score, got \[0.9, 0.1\]; run"),
    ],
)
def test_damaged_intervals_are_an_error(workspace, intervals, message):
    metrics = {"n_images": 1, "n_classes": 1, "majority_baseline_score": 1.0, "accuracy_score": 0.5}
    write_json(paths.EVALUATION_METRICS, metrics)
    write_json(paths.INTERVALS, intervals)
    write_csv(paths.CLASS_REPORT, CLASS_HEADER, [("cat", 1, 1, 1, 1)])
    with pytest.raises(IntegrityError, match=rf"^reports/intervals\.json: {message}"):
        describe_evaluation()


def test_no_evaluation_yet(workspace):
    with pytest.raises(IntegrityError, match=r"metrics/evaluation\.json: no such file; run `dvc repro`"):
        describe_evaluation()
