import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from conftest import draw_image, encode_image
from relearn.errors import ImageError
from relearn.explanation.drawing import AGAINST, FOR, MAX_OPACITY, draw_explanation, draw_scale, paint_map
from relearn.explanation.maps import Explanation


def explain(grid):
    grid = np.array(grid, float)
    return Explanation("food", grid.sum(), 0.0, grid, True, "text", 0.9)


def test_colors_say_for_and_against_and_nothing():
    gray = np.full((40, 40, 3), 100, np.uint8)
    painted = paint_map(gray, np.array([[2.0, 0.0], [0.0, -1.0]])).astype(int)
    strongest, weaker = painted[0, 0], painted[-1, -1]
    np.testing.assert_allclose(strongest, 100 + MAX_OPACITY * (np.array(FOR) - 100), atol=1)
    np.testing.assert_allclose(weaker, 100 + MAX_OPACITY / 2 * (np.array(AGAINST) - 100), atol=1)
    np.testing.assert_allclose(painted[0, -1], 100, atol=1)


def test_a_map_of_zeros_has_no_color():
    gray = np.full((8, 8, 3), 100, np.uint8)
    assert np.abs(paint_map(gray, np.zeros((2, 2))).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("kind", ["path", "bytes", "array"])
def test_the_picture_is_a_square_of_the_size(tmp_path, kind):
    image = draw_image(0, (50, 30))
    (tmp_path / "x.png").write_bytes(encode_image(image))
    given = {"path": tmp_path / "x.png", "bytes": encode_image(image), "array": np.asarray(image)}[kind]
    uri = draw_explanation(given, explain(np.eye(7)), 96)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (96, 96)
    assert uri == draw_explanation(image, explain(np.eye(7)), 96)


def test_a_file_that_is_no_image_is_an_error(tmp_path):
    with pytest.raises(ImageError):
        draw_explanation(tmp_path / "gone.png", explain(np.eye(7)), 96)


def test_the_legend_is_svg_with_words_for_a_screen_reader():
    svg = ElementTree.fromstring(draw_scale())
    assert svg.get("role") == "img"
    assert "orange" in svg.get("aria-label")
    assert [text.text for text in svg.iter("text")] == ["against", "nothing", "for the class"]
