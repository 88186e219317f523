import json
from pathlib import Path

from conftest import render_markdown
from flows import artifacts
from relearn.runtime.text import escape_controls

HOSTILE = "![x](http://h/x.png)<img src=x onerror=alert(1)>|`_*\n\x1b[2J"


def test_names_are_not_live_in_artifacts(tmp_path, monkeypatch):
    """Every name of an image or a class in an artifact of Markdown shows as it stands."""
    made = {}
    monkeypatch.setattr(
        artifacts, "create_markdown_artifact", lambda key, markdown, description: made.update({key: markdown})
    )
    finding = {"name": "x", "severity": "error", "wanted": HOSTILE, "observed": HOSTILE, "passed": False}
    report = {"passed": False, "n_images": 1, "findings": [{**finding, "rows": [HOSTILE]}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    artifacts.publish_findings(tmp_path, "validation", Path("report.json"))
    images = [{"path": HOSTILE}]
    decision = {"promoted": False, "verdict": "worse", "reason": HOSTILE, "n_judged": 1, "n_new": 1}
    artifacts.publish_decision(
        {**decision, "only_champion": images, "only_challenger": images, "differences": []}, "v1"
    )
    artifacts.publish_mistakes([], tmp_path / HOSTILE.replace("/", ""))
    for key, n_names in {"validation": 3, "verdict": 3}.items():
        shown, tags = render_markdown(made[key])
        assert shown.count(escape_controls(HOSTILE)) == n_names, key
        assert not tags & {"img", "a", "script", "code", "em", "strong"} - (
            {"strong"} if key == "validation" else set()
        )
    shown, tags = render_markdown(made["mistakes"])
    assert "img" not in tags
