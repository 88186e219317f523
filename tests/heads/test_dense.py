import pytest

from conftest import make_split, make_train_params
from relearn.errors import TrainingError
from relearn.heads.kinds import prepare_data
from relearn.heads.search import try_head


@pytest.mark.slow
def test_learning_rate_that_is_too_large_is_reported():
    params = make_train_params("dense", {"learning_rate": 1e9, "weight_decay": 1e3})
    with pytest.raises(
        TrainingError,
        match=r"dense\.learning_rate 1e\+09: .* got NaN or infinity in epoch \d+; lower",
    ):
        try_head(*params.grids[0], prepare_data(make_split(1), make_split(2), params))
