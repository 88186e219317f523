import json

from relearn.gates.reference import Reference, find_reference


def make_report(manifest_sha256="1", source="birds", passed=True, **changes):
    report = {"manifest_sha256": manifest_sha256, "source": source, "passed": passed, "classes": {"owl": 3}} | changes
    return json.dumps(report).encode()


def test_reference_is_the_newest_other_data_of_this_source_that_passed():
    reports = [
        make_report("2", passed=False),
        make_report("3", source="food"),
        b"no json",
        b"[]",
        make_report("4", classes=3),
        make_report("5"),
        make_report("6"),
    ]
    commits = [(str(number), content) for number, content in enumerate(reports)]
    assert find_reference(commits, "now", "birds") == (Reference("5", {"owl": 3}), False)
    assert find_reference(commits, "now", "./birds/") == (Reference("5", {"owl": 3}), False)
    assert find_reference(commits, "now", "digits") == (None, False)


def test_reference_of_committed_data_is_in_their_report():
    """Also where the history ends there, as in a shallow clone."""
    for compared_with, expected in ((None, None), ({"commit": "a", "classes": {"owl": 4}}, Reference("a", {"owl": 4}))):
        report = make_report("now", compared_with=compared_with)
        assert find_reference([("x", report), ("y", make_report("2"))], "now", "birds") == (expected, True)
        assert find_reference([("x", report)], "now", "birds") == (expected, True)


def test_committed_report_that_is_nested_too_deeply_is_passed_over():
    report = {"passed": True, "source": "s", "manifest_sha256": "a", "classes": {"cat": 3}}
    reports = [("c2", b"[" * 100_000), ("c1", json.dumps(report).encode())]
    assert find_reference(reports, "b", "s") == (Reference("c1", {"cat": 3}), False)
