from relearn.heads.trees import DecisionTreeOptions


def test_options_are_recorded_in_the_order_of_the_block():
    options = DecisionTreeOptions(ccp_alpha=0.5, min_samples_leaf=3, max_depth=None, criterion="gini")
    recorded = {"criterion": "gini", "max_depth": None, "min_samples_leaf": 3, "ccp_alpha": 0.5}
    assert list(options.to_dict().items()) == list(recorded.items())
