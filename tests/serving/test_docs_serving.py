"""docs/serving.md: what it shows is what happens."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, draw_image, encode_image
from relearn.serving.access import OPEN_PATHS, PATHS
from relearn.serving.settings import Settings
from serving.browser import BROWSER, open_tab

TEXT = (ROOT / "docs" / "serving.md").read_text()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encode_image(draw_image(1, (60, 40)), "JPEG"))
    Path("notes.txt").write_text("no image")


def find_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_is_answered(address, photos):
    commands = re.findall(r"^\$ (curl .*)$", TEXT, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        script = command.replace("http://127.0.0.1:8000", address).replace("curl", "curl -sS")
        reply = json.loads(subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout)
        assert reply["images"][0]["label"] in ("blue", "red")
    (shown,) = re.findall(r"^\{.*?\]\}$", TEXT, re.DOTALL | re.MULTILINE)
    reply = json.loads(subprocess.run(
        ["bash", "-c", commands[0].replace("http://127.0.0.1:8000", address)], check=True, capture_output=True
    ).stdout)  # fmt: skip
    for ours, documented in zip(reply["images"], json.loads(shown)["images"], strict=True):
        assert list(ours) == list(documented)
    assert reply["images"][1]["error"] == json.loads(shown)["images"][1]["error"]


def test_python_is_answered(address, photos, capsys):
    (script,) = find_blocks("python")
    exec(script.replace("http://127.0.0.1:8000", address), {})
    assert re.fullmatch(r"(blue|red) 0\.\d+\n", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_javascript_is_answered(address, tmp_path):
    (script,) = find_blocks("javascript")
    with open_tab(tmp_path) as tab:
        tab.open(address)
        tab.evaluate(script.replace("http://127.0.0.1:8000", address))
        assert tab.evaluate("predict(new File(['x'], 'x.png'))").startswith("not an image")
        picture = "new Promise((go) => Object.assign(document.createElement('canvas'), {width: 9}).toBlob(go))"
        assert tab.evaluate(f"{picture}.then(predict)") in ("blue", "red")


def test_page_names_every_address_limit_and_metric(client):
    for path in PATHS:
        assert f"`GET {path}`" in TEXT or f"`POST {path}`" in TEXT
    assert {"/", "/docs", "/openapi.json", "/healthz", "/readyz"} == set(OPEN_PATHS)
    defaults = Settings()
    for value in (defaults.max_bytes, defaults.max_files, defaults.max_pixels, int(defaults.timeout_seconds)):
        assert f"| {value:,} |" in TEXT
    metrics = set(re.findall(r"^# TYPE (\w+) ", client.get("/metrics").text, re.MULTILINE))
    assert {name for name in metrics if not name.endswith("_created")} == set(re.findall(r"`(relearn_\w+)`", TEXT))
