import pytest

from conftest import make_split, make_train_params
from relearn.errors import TrainingError
from relearn.heads.kinds import prepare_data
from relearn.heads.search import try_head


@pytest.mark.parametrize("n_constant", [0, 5])
def test_centroids_with_features_that_are_constant(n_constant):
    training, validation = make_split(1), make_split(2)
    training.blocks[0][:, :n_constant] = 3
    params = make_train_params("nearest_centroid", {"shrink_threshold": 0.1})
    (trial,) = try_head(*params.grids[0], prepare_data(training, validation, params))
    assert trial.accuracy > 0.5


def test_centroids_cannot_be_shrunk_by_one_image_a_class():
    two, other = make_split(1, 2, 2), make_split(2, 20, 2)
    params = make_train_params("nearest_centroid", {"shrink_threshold": 0.1})
    with pytest.raises(
        TrainingError,
        match=r"0\.1: wanted features that vary within a class, got 2 images of 2 classes; set",
    ):
        try_head(*params.grids[0], prepare_data(two, other, params))
