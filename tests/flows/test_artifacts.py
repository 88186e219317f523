import json
import logging
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import httpx

from conftest import render_markdown
from flows import artifacts
from relearn.runtime.text import escape_controls

HOSTILE = "![x](http://h/x.png)<img src=x onerror=alert(1)>|`_*\n\x1b[2J"
FINDING = {"name": "x", "severity": "error", "wanted": HOSTILE, "observed": HOSTILE, "passed": False}


def test_names_are_not_live_in_artifacts(tmp_path, monkeypatch):
    """Every name of an image or a class in an artifact of Markdown shows as it stands."""
    made = {}
    monkeypatch.setattr(
        artifacts, "create_markdown_artifact", lambda key, markdown, description: made.update({key: markdown})
    )
    report = {"passed": False, "n_images": 1, "findings": [{**FINDING, "rows": [HOSTILE]}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    artifacts.publish_findings(tmp_path, "validation", Path("report.json"))
    images = [{"path": HOSTILE}]
    decision = {"promoted": False, "verdict": "worse", "reason": HOSTILE, "n_judged": 1, "n_new": 1}
    artifacts.publish_decision(
        {**decision, "only_champion": images, "only_challenger": images, "differences": []}, "v1"
    )
    artifacts.publish_mistakes([], tmp_path / HOSTILE.replace("/", ""))
    for key, n_names in {"validation": 5, "verdict": 3}.items():
        shown, tags = render_markdown(made[key])
        assert shown.count(escape_controls(HOSTILE)) == n_names, key
        assert not tags & {"img", "a", "script", "code", "em", "strong"} - (
            {"strong"} if key == "validation" else set()
        )
    shown, tags = render_markdown(made["mistakes"])
    assert "img" not in tags


def test_what_a_gate_found_comes_first(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **artifact: made.append(artifact))
    findings = [
        {**FINDING, "name": "fine", "passed": True, "rows": []},
        {**FINDING, "name": "odd", "severity": "warn", "wanted": "5", "observed": "9", "rows": ["a", "b"]},
        {**FINDING, "name": "bad", "wanted": "20", "observed": "3", "rows": []},
    ]
    report = {"passed": False, "n_images": 1, "findings": findings}
    (tmp_path / "report.json").write_text(json.dumps(report))
    artifacts.publish_findings(tmp_path, "validation", Path("report.json"))
    assert made[0]["description"] == "Validation failed: bad (error), odd (warn)"
    assert made[0]["markdown"].splitlines()[:4] == [
        "## Validation failed: 1 image",
        "",
        "- **bad** (error): found 3, wanted 20",
        "- **odd** (warn): found 9, wanted 5: a, b",
    ]
    (tmp_path / "report.json").write_text(json.dumps({"passed": True, "n_images": 2, "findings": findings[:1]}))
    artifacts.publish_findings(tmp_path, "validation", Path("report.json"))
    assert made[1]["description"] == "Validation passed"
    assert made[1]["markdown"].splitlines()[2] == "All checks passed."


def test_a_run_that_cannot_be_renamed_goes_on(monkeypatch, caplog):
    def fail(**_):
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(artifacts, "flow_run", SimpleNamespace(id=None, tags=[]))
    artifacts.name_run("v2 promoted", ["v2"])
    monkeypatch.setattr(artifacts, "flow_run", SimpleNamespace(id=str(uuid4()), tags=[]))
    monkeypatch.setattr(artifacts, "get_client", fail)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("retrain"))
    artifacts.name_run("v2 promoted", ["v2"])
    assert caplog.messages == ["The run is not renamed to v2 promoted: refused"]
