"""The page as a browser shows it, with the network off."""

import re
import shutil
import subprocess

import pytest

from conftest import make_train_params, write_images
from relearn import paths
from relearn.dataset.manifest import read_manifest
from relearn.stages import evaluate, train
from reporting.test_page import PARAMS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Moves over the first point of the map, and says what was loaded.
USE = """
<script>
addEventListener("load", () => {
  const matrix = svg.getScreenCTM();
  const point = new DOMPoint(data.points[0], data.points[1]).matrixTransform(matrix);
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: point.x, clientY: point.y}));
  const loaded = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:"));
  const shown = [...document.images].filter((image) => image.naturalWidth > 0);
  document.title = `loaded ${loaded.length}, shown ${shown.length} of ${document.images.length}`;
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_page_works_without_any_request(features, tmp_path_factory):
    train.run(make_train_params())
    write_images(paths.DATASET, [row.path for row in read_manifest(paths.MANIFEST)])
    evaluate.run(PARAMS, make_train_params())
    page = paths.EVALUATION_PAGE.resolve()
    used = page.with_name("used.html")
    used.write_text(page.read_text().replace(' loading="lazy"', "").replace("</body>", f"{USE}</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--dump-dom", f"{used.as_uri()}#pair-0-0"]
    content = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert '<details id="pair-0-0" open="">' in content
    assert content.count(' open=""') == 1
    n_loaded, n_shown, n_images = re.search(r"<title>loaded (\d+), shown (\d+) of (\d+)</title>", content).groups()
    assert n_loaded == "0"
    assert n_shown == n_images
    assert int(n_images) > 10
    hover = content.partition('<figure id="hover"')[2]
    assert not hover.startswith(" hidden")
    assert "<figcaption>class " in hover
