import pytest

from conftest import read_params_error


def test_unknown_network_answers_with_the_list(workspace, set_params):
    set_params({"extract.network": "vgg"})
    assert "extract.network: wanted one of 'convnext_base'" in (error := read_params_error())
    assert "'vgg16', 'vgg19' or 'xception', got 'vgg'" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extract.weights": "w.h5", "extract.weights_sha256": None},
            r"extract: wanted weights_sha256 beside the path w.h5 (`sha256sum w.h5` prints it)",
        ),
        ({"extract.weights": "random"}, "extract: wanted weights_sha256: null with weights: random"),
        (
            {"extract.weights": "imagenet", "extract.weights_sha256": None},
            "extract: wanted weights: random or a path with mini_vgg, got imagenet, which the other networks",
        ),
        (
            {"extract.weights": "w.h5", "extract.weights_sha256": "abc"},
            "extract.weights_sha256: wanted 64 hexadecimal digits, got 'abc'",
        ),
        ({"extract.image_size_px": 32.5}, "extract.image_size_px: wanted a valid integer, got 32.5"),
        ({"extract.pooling": "mean"}, "extract.pooling: wanted one of 'flatten', 'avg' or 'max', got 'mean'"),
        ({"extract.views": -1}, "extract.views: wanted greater than or equal to 0, got -1"),
    ],
)
def test_values_that_cannot_be(workspace, set_params, changes, message):
    set_params(changes)
    assert message in read_params_error()
