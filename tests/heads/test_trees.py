import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from conftest import make_split, make_train_params
from relearn.heads.kinds import prepare_data
from relearn.heads.trees import DecisionTreeOptions, RandomForestOptions, fit_decision_tree, fit_random_forest

TREE = DecisionTreeOptions("entropy", 3, 2, 0.01)
FOREST = RandomForestOptions("gini", None, 1, 5, 0.5)


@pytest.mark.parametrize(
    ("fit", "options", "reference"),
    [
        (fit_decision_tree, TREE, DecisionTreeClassifier),
        (fit_random_forest, FOREST, RandomForestClassifier),
    ],
)
def test_options_reach_scikit_learn_and_rows_of_weight_0_do_not(fit, options, reference):
    data = prepare_data(make_split(1), make_split(2), make_train_params(seed=7))
    weights = np.where(np.arange(60) < 40, 1.0, 0.0)
    head = fit(options, data, weights)
    expected = reference(**options.to_dict(), random_state=7)
    expected.fit(data.training.features[:40], data.labels[:40], np.ones(40))
    images = data.validation.features
    np.testing.assert_array_equal(head.estimator.predict_proba(images), expected.predict_proba(images))
