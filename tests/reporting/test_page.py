import re

import numpy as np
import pytest

from conftest import ROOT, make_train_params, read_yaml, write_images
from relearn import paths
from relearn.errors import IntegrityError
from relearn.evaluation.metrics import compute_metrics, judge
from relearn.evaluation.predictions import Predictions, read_predictions
from relearn.explanation.maps import Explanation
from relearn.inference.classifier import read_classifier
from relearn.params.pipeline import EvaluateParams
from relearn.reporting import mistakes, page
from relearn.reporting.page import draw_bars, draw_matrix, draw_pairs, rank_classes
from relearn.stages import evaluate, train

PARAMS = EvaluateParams.model_validate(read_yaml(ROOT / "params.yaml")["evaluate"] | {"n_resamples": 200})


def make_predictions(n_images=60, n_classes=3, n_wrong=6):
    """The last `n_wrong` images are predicted as the next class."""
    classes = [f"class {number:02}" for number in range(n_classes)]
    columns = np.arange(n_images) % n_classes
    probabilities = np.full((n_images, n_classes), 0.1 / (n_classes - 1))
    answers = np.where(np.arange(n_images) < n_images - n_wrong, columns, (columns + 1) % n_classes)
    probabilities[np.arange(n_images), answers] = 0.9
    labels, predicted = ([classes[column] for column in values] for values in (columns, answers))
    names = [f"evaluation/{label}/{number}.png" for number, label in enumerate(labels)]
    return Predictions(
        classes, names, [f"{number:064x}" for number in range(n_images)], labels, predicted, probabilities
    )


def make_judged(predictions):
    return judge(predictions.classes, predictions.labels, predictions.probabilities)


def test_baseline_is_a_constant_answer():
    judged = make_judged(make_predictions(n_images=61))
    bars = {bar.name: bar for bar in draw_bars(judged, compute_metrics(judged, PARAMS), PARAMS.n_bins)}
    assert bars["accuracy"].baseline == pytest.approx(21 / 61, abs=1e-6)
    assert bars["balanced accuracy"].baseline == pytest.approx(1 / 3)
    assert bars["roc auc"].baseline == 0.5
    shares = np.array([21, 20, 20]) / 61
    assert bars["log loss"].baseline == pytest.approx(-(shares * np.log(shares)).sum())
    assert not bars["log loss"].is_better_high
    low, width, value, baseline = bars["accuracy"].places
    assert low < value < low + width < 100
    assert baseline == pytest.approx(100 * 21 / 61, abs=0.01)
    assert all(0 <= place <= 100 for bar in bars.values() for place in bar.places)


def test_classes_are_in_the_order_of_their_recall():
    predictions = make_predictions(n_wrong=1)
    rows = rank_classes(make_judged(predictions))
    assert [row.label for row in rows] == ["class 02", "class 00", "class 01"]
    assert rows[0].recall == pytest.approx(19 / 20)
    assert rows[0].low < rows[0].recall < rows[0].high < 1


def test_matrix_has_labels_in_rows():
    predictions = make_predictions(n_wrong=1)
    counts = [[count for count, _ in row] for row in draw_matrix(make_judged(predictions))]
    assert counts == [[20, 0, 0], [0, 20, 0], [1, 0, 19]]


def test_pairs_list_every_mistake_once(monkeypatch):
    monkeypatch.setattr(page, "N_PICTURED", 4)
    predictions = make_predictions()
    pairs = draw_pairs(predictions, page.rank_mistakes(predictions))
    wrong = [pair for pair in pairs if pair.label != pair.predicted]
    assert [(pair.label, pair.predicted, pair.n_images) for pair in wrong] == [
        ("class 00", "class 01", 2),
        ("class 01", "class 02", 2),
        ("class 02", "class 00", 2),
    ]
    found = [path for pair in wrong for path in (*dict(pair.pictured), *pair.listed)]
    assert sorted(found) == sorted(np.array(predictions.paths)[~predictions.right])
    assert sum(len(pair.pictured) for pair in wrong) == 4
    assert [pair.n_images for pair in pairs[3:]] == [18, 18, 18]  # right ones


def test_what_is_not_listed_is_counted(monkeypatch):
    monkeypatch.setattr(page, "N_PICTURED", 4)
    monkeypatch.setattr(page, "N_LISTED", 5)
    predictions = make_predictions(300, 3, 60)
    wrong = draw_pairs(predictions, page.rank_mistakes(predictions))[:3]
    assert [pair.n_images for pair in wrong] == [20, 20, 20]
    assert all(pair.pictured for pair in wrong)  # each pair of classes has a picture
    assert sum(len(pair.pictured) for pair in wrong) == 4
    assert sum(len(pair.listed) for pair in wrong) == 5
    assert sum(pair.n_left for pair in wrong) == 60 - 4 - 5


def test_of_many_classes_the_most_frequent_pairs_are_listed(monkeypatch):
    monkeypatch.setattr(page, "N_PAIRS", 3)
    predictions = make_predictions(200, 25, 30)
    pairs = draw_pairs(predictions, page.rank_mistakes(predictions))
    assert [pair.n_images for pair in pairs] == [2, 2, 2]


def test_page_says_what_the_files_say(features, caplog):
    train.run(make_train_params())
    evaluate.run(PARAMS, make_train_params())
    content = paths.EVALUATION_PAGE.read_bytes()
    text = content.decode()
    assert re.search(r"<h1>\d+\.\d % of 60 evaluation images are right</h1>", text)
    for part in ("metrics", "confusion", "classes", "curves", "map", "origin"):
        assert f'<section id="{part}">' in text
        assert f'href="#{part}"' in text
    assert not re.search(r"(src|href)=\"(?!data:|#)|url\((?!\"data:)|https?:", text)
    assert text.count("<svg") >= 5
    evaluate.run(PARAMS, make_train_params())
    assert paths.EVALUATION_PAGE.read_bytes() == content
    # The network of these features does not exist, and neither do the images.
    n_mistakes = int(re.search(r"(\d+) images? (?:is|are) wrong|No image", text)[1] or 0)
    assert n_mistakes > 0
    assert any(message.startswith("no evidence maps: ") for message in caplog.messages)
    assert "Without maps" in text
    assert text.count("<article>") == min(n_mistakes, PARAMS.n_explained)


def test_page_of_folds_has_all_images(features):
    params = make_train_params()
    train.run(params)
    evaluate.run(PARAMS.model_copy(update={"by": "folds"}), params)
    text = paths.EVALUATION_PAGE.read_text()
    assert re.search(r"<h1>\d+\.\d % of 180 images are right</h1>", text)
    assert f"Out of {params.n_folds} folds: each image was judged by a head that was not fitted on it." in text
    assert "Without maps, because the heads of the folds are not kept." in text
    shown = re.findall(r'<article>.*?class="path">(.*?)</span>(.*?)</article>', text, re.DOTALL)
    assert shown
    for path, rest in shown:
        assert path not in rest.partition("most similar")[2]  # an image is not its own neighbor
    assert "180 images by the first two principal components" in text


def test_names_of_classes_are_text_on_the_page(features):
    """Also in the script, which holds the texts of the map."""
    hostile = '</script><img src=x onerror="alert(1)">{{ 7 * 7 }}'
    train.run(make_train_params())
    evaluate.run(PARAMS, make_train_params())
    predictions = read_predictions(paths.PREDICTIONS)
    first = predictions.classes[0]
    renamed = predictions._replace(
        classes=[hostile, *predictions.classes[1:]],
        labels=[hostile if label == first else label for label in predictions.labels],
        predicted=[hostile if label == first else label for label in predictions.predicted],
    )
    judged = make_judged(renamed)
    record = read_classifier(paths.CLASSIFIER).record
    text = page.draw_evaluation(renamed, judged, compute_metrics(judged, PARAMS), record, PARAMS).decode()
    assert "<img src=x" not in text
    assert text.count("</script>") == 1
    assert "{{ 7 * 7 }}" in text


def test_an_image_that_is_gone_has_no_map(workspace, monkeypatch):
    """The others keep theirs, and nothing outside of the data set is opened."""
    write_images(paths.DATASET, ["evaluation/a/0.png"])
    write_images(paths.DATASET.parent, ["secret.png"])
    asked = []

    class Explained:
        is_exact = True

        def __init__(self, folder):
            pass

        def explain(self, files, labels, rows):
            asked.extend(files)
            return [Explanation(label, 1.0, 0.0, np.eye(2), True, f"for {label}", 0.5) for label in labels]

    monkeypatch.setattr(mistakes, "Explainer", Explained)
    images = ["evaluation/a/gone.png", "evaluation/a/0.png", "../secret.png"]
    found = mistakes.explain_images(images, ["a", "b", "c"], np.zeros((3, 8), np.float32))
    assert [one and one.text for one in found] == [None, "for b", None]
    assert asked == [paths.DATASET / "evaluation/a/0.png"]


def test_damaged_features_are_an_error(features):
    """A warning would give a page without similar images the name of the right one."""
    train.run(make_train_params())
    shard = next(paths.FEATURES.glob("training*.npy"))
    shard.write_bytes(shard.read_bytes()[:-4] + b"1234")
    with pytest.raises(IntegrityError, match=r"training.*\.npy: wanted sha256 .*got other bytes"):
        evaluate.run(PARAMS, make_train_params())
