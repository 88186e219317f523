"""The page in a browser, and the documents of the server."""

import base64
import json
import re

import pytest

from conftest import draw_image, encode_image
from inference.exports import write_export
from relearn.serving.pages import read_page
from serving.browser import BROWSER, open_tab
from serving.conftest import run_server

CLASSES = [f"class {number}" for number in range(7)]
PNG = encode_image(draw_image(1, (40, 30)), "PNG")
HOSTILE_NAME = "<img src=x onerror=alert(1)>.png"


def test_policy_allows_the_page_alone():
    for name in ("page.html", "docs.html"):
        page = read_page(name)
        assert "<style></style>" not in page.content.decode()
        assert page.policy.count("'sha256-") == 2
        assert "unsafe" not in page.policy
        assert not re.search(rb"https?://|//[a-z]", page.content)
        assert not re.search(rb"\son[a-z]+=|\sstyle=", page.content)  # the policy would block them


pytestmark_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with open_tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "exported"
    write_export(folder, CLASSES, version="v7")
    with run_server(folder) as (address, _):
        yield address


def give(tab, event, files):
    """Drop or paste files, as pairs of name and content."""
    listed = json.dumps([[name, base64.b64encode(content).decode()] for name, content in files])
    data = {"drop": "dataTransfer", "paste": "clipboardData"}[event]
    kind = {"drop": "DragEvent", "paste": "ClipboardEvent"}[event]
    tab.evaluate(f"""(() => {{
        const data = new DataTransfer();
        for (const [name, content] of {listed}) {{
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            data.items.add(new File([bytes], name, {{type: "image/png"}}));
        }}
        document.body.dispatchEvent(new {kind}("{event}", {{bubbles: true, cancelable: true, {data}: data}}));
    }})()""")


def wait_for_answers(tab, number):
    tab.wait(f"document.querySelectorAll('article').length === {number} && !isBusy")


@pytest.mark.slow
@pytestmark_browser
def test_photos_are_dropped_pasted_and_chosen(tab, many, tmp_path):
    tab.open(many)
    tab.requested.clear()
    tab.wait("document.getElementById('model').textContent.startsWith('Model v7 (sha256 ')")
    give(tab, "drop", [(HOSTILE_NAME, PNG)])
    wait_for_answers(tab, 1)
    label = tab.evaluate("document.querySelector('article h2').textContent")
    assert label in CLASSES
    assert tab.evaluate("document.getElementById('status').textContent").startswith(f"{HOSTILE_NAME}: {label}, ")
    assert tab.evaluate("document.querySelectorAll('article > div table tr').length") == len(CLASSES)
    assert tab.evaluate("document.querySelector('article details summary').textContent") == "2 more classes"
    tab.wait("document.querySelector('article img').naturalWidth === 40")

    give(tab, "paste", [("image.png", PNG)])
    wait_for_answers(tab, 2)
    give(tab, "drop", [("broken.png", PNG[:60])])
    wait_for_answers(tab, 3)
    assert tab.evaluate("document.querySelector('article .error').textContent").startswith("damaged PNG file: ")
    assert "broken.png: damaged" in tab.evaluate("document.getElementById('status').textContent")

    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for seed, path in enumerate(paths):
        path.write_bytes(encode_image(draw_image(seed), "PNG"))
    tab.choose_files("#files", paths)
    wait_for_answers(tab, 13)
    names = tab.evaluate("[...document.querySelectorAll('article h2 + p')].slice(0, 10).map((p) => p.textContent)")
    assert names == [path.name for path in reversed(paths)]
    assert tab.evaluate("document.getElementById('status').textContent").startswith("10 photos are answered, ")

    own = (many, f"blob:{many}", "data:")
    assert [address for address in tab.requested if not address.startswith(own)] == []
    assert tab.problems == [], tab.problems


@pytest.mark.slow
@pytestmark_browser
def test_page_is_used_by_keyboard_and_fits_a_phone(tab, many):
    for width_px, scheme in ((390, "dark"), (1280, "light")):
        tab.open(many, width_px, scheme=scheme)
        give(tab, "drop", [("a-name-without-any-place-to-break-" * 6, PNG)])
        wait_for_answers(tab, 1)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width_px
    focused = []
    tab.evaluate("document.activeElement.blur()")
    for _ in range(4):
        tab.press("Tab")
        focused.append(tab.evaluate("document.activeElement.id || document.activeElement.localName"))
    assert focused == ["files", "camera", "clear", "summary"]
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    tab.evaluate("document.getElementById('clear').focus()")
    tab.press("Enter")
    wait_for_answers(tab, 0)
    assert tab.evaluate("document.activeElement.id") == "files"
    assert tab.evaluate("document.getElementById('status').getAttribute('aria-live')") == "polite"


@pytest.mark.slow
@pytestmark_browser
def test_page_asks_for_the_token_and_keeps_the_photos_meanwhile(tab, model_folder):
    with run_server(model_folder, token="secret") as (address, _):
        tab.open(address)
        tab.wait("!document.getElementById('access').hidden")
        give(tab, "drop", [("a.png", PNG)])
        tab.wait("document.getElementById('status').textContent.startsWith('Wanted: the token')")
        assert tab.evaluate("document.activeElement.id") == "token"
        tab.evaluate("document.getElementById('token').value = 'secret'")
        tab.press("Enter")
        wait_for_answers(tab, 1)
        assert tab.evaluate("document.getElementById('access').hidden")
        assert tab.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        assert tab.problems == []


@pytest.mark.slow
@pytestmark_browser
def test_page_names_the_next_model_and_what_failed(tab, tmp_path):
    write_export(tmp_path / "exported", CLASSES, version="v1")
    with run_server(tmp_path / "exported") as (address, service):
        tab.open(address)
        tab.wait("document.getElementById('model').textContent.startsWith('Model v1 (')")
        write_export(tmp_path / "exported", CLASSES, version="v2", seed=1)
        service.follower.check()
        give(tab, "drop", [("a.png", PNG)])
        wait_for_answers(tab, 1)
        tab.wait("document.getElementById('model').textContent.startsWith('Model v2 (')")
        tab.evaluate("fetch = async () => new Response('Internal Server Error', {status: 500})")
        give(tab, "drop", [("b.png", PNG)])
        wait_for_answers(tab, 2)
        text = tab.evaluate("document.querySelector('article .error').textContent")
        assert text == "the server failed (status 500)"
        assert tab.problems == []


@pytest.mark.slow
@pytestmark_browser
def test_documents_show_every_address(tab, many):
    tab.open(f"{many}/docs")
    tab.wait("document.querySelectorAll('section').length === 5")
    text = tab.evaluate("document.body.textContent")
    for part in (
        "POST /predict",
        "multipart/form-data: by name: list of the bytes of a file",
        "images: list of one of\n    object\n      name: string",
        "probabilities: by name: number",
        "proof_any_size: null or object\n",
    ):
        assert part in text
    assert tab.problems == []
