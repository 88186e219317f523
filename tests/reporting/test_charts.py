import re
from xml.etree import ElementTree as ET

import numpy as np

from relearn.reporting.charts import (
    draw_band,
    draw_chart,
    draw_line,
    draw_points,
    make_axis,
    make_unit_axis,
    place,
    place_up,
)

X, Y = make_unit_axis("recall"), make_unit_axis("precision")


def test_corners_of_the_frame():
    assert [place(0, X), place(1, X)] == [56, 306]
    assert [place_up(0, Y), place_up(1, Y)] == [260, 10]
    line = draw_line(np.array([[0, 0], [0, 0], [1, 0.5]]), X, Y)
    assert line == '<path class="line" d="M56 260L306 135"/>'


def test_band_goes_there_and_back():
    points = np.array([[0, 0.25, 0.5], [1, 0.5, 0.75]])
    assert 'd="M56 197.5L306 135L306 72.5L56 135"' in draw_band(points, X, Y)


def test_points_are_as_large_as_their_numbers_of_images():
    drawn = draw_points(np.array([[0.5, 1.0], [0.9, 0.9]]), [1, 400], X, Y)
    assert re.findall(' r="(.+?)"', drawn) == ["1.5", "14.0"]
    assert "<title>1 images: recall 0.500, precision 1.000</title>" in drawn


def test_chart_is_xml_whatever_the_names():
    x = make_axis('<a & "b">', np.array([-4.0, 1.0]), [-4, 0, 1])
    chart = draw_chart("a < b", x, make_axis("one value", np.array([0.5, 0.5])), draw_line(np.zeros((1, 2)), x, Y))
    root = ET.fromstring(chart)
    assert root.get("aria-label") == "a < b"
    texts = [text.text for text in root.iter("text")]
    assert texts[:3] == ["-4", "0", "1"]
    assert '<a & "b">' in texts
    assert len(root.findall("path")) == 2
