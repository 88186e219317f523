import numpy as np
import pytest

from relearn.explanation.occlusion import N_BOXES, estimate_evidence, hide_boxes, list_boxes


@pytest.mark.parametrize("size_px", [3, 32, 224, 229])
def test_boxes_cover_each_pixel_once(size_px):
    covered = np.zeros((size_px, size_px), int)
    boxes = list_boxes(size_px)
    for box in boxes:
        assert covered[box].size > 0
        covered[box] += 1
    assert (covered == 1).all()
    assert len(boxes) == min(N_BOXES, size_px) ** 2


def test_a_hidden_box_has_the_mean_color_and_the_rest_is_as_it_was():
    pixels = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8)
    whole, *hidden = hide_boxes(pixels)
    assert np.array_equal(whole, pixels)
    for box, image in zip(list_boxes(14), hidden, strict=True):
        assert (image[box] == pixels.mean(axis=(0, 1)).round()).all()
        restored = image.copy()
        restored[box] = pixels[box]
        assert np.array_equal(restored, pixels)


def test_the_box_that_the_probability_depends_on_has_the_evidence():
    probabilities = np.array([0.8, 0.8, 0.2, 0.8, 1.0], np.float32)
    log_probability, grid = estimate_evidence(probabilities)
    assert log_probability == pytest.approx(np.log(0.8))
    np.testing.assert_allclose(grid, [[0, np.log(4)], [0, np.log(0.8)]], atol=1e-6)


def test_a_probability_of_zero_has_a_logarithm():
    _, grid = estimate_evidence(np.array([1, 0, 1, 1, 1], np.float32))
    assert np.isfinite(grid).all()
