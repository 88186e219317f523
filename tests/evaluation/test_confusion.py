from xml.etree import ElementTree

from relearn.evaluation.confusion import MAX_CLASSES, draw_confusion


def read(svg):
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    cells = [dict(element.attrib) for element in root.iter(f"{space}rect") if "fill-opacity" in element.attrib]
    return texts, cells


def test_rows_are_labels_and_columns_what_was_predicted():
    texts, cells = read(draw_confusion([("a", "a")] * 3 + [("a", "b")] + [("b", "b")] * 1200))
    assert texts == ["rows: label, columns: predicted", "a", "a", "3", "1", "b", "b", "1,200"]
    assert [cell["fill-opacity"] for cell in cells] == ["0.787", "0.362", "0.000", "1.000"]
    assert cells[0]["fill"] == cells[3]["fill"] != cells[1]["fill"]
    assert (cells[1]["x"] > cells[0]["x"], cells[1]["y"]) == (True, cells[0]["y"])


def test_names_are_cut_and_quoted():
    texts, _ = read(draw_confusion([("<a> & a very long name indeed", "b")]))
    assert texts[1] == "<a> & a very lo…"


def test_very_many_classes_have_small_cells_without_numbers():
    n = MAX_CLASSES + 1
    texts, cells = read(draw_confusion([(f"class {i}", f"class {i}") for i in range(n)]))
    assert texts == ["rows: label, columns: predicted"]
    assert len(cells) == n * n
