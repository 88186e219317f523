import pytest

from conftest import read_params_error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment.zoom_min": 1.5}, "augment: wanted zoom_min of at most zoom_max, got 1.5 and 1"),
        ({"augment.shift": 1.5}, "augment.shift: wanted less than 1, got 1.5"),
        ({"augment.erased_area_max": 0.9}, "augment.erased_area_max: wanted less than or equal to 0.5, got 0.9"),
    ],
)
def test_values_that_cannot_be(workspace, set_params, changes, message):
    set_params(changes)
    assert message in read_params_error()
