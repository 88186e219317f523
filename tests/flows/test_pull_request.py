import io
import json
import re
import subprocess
import sys

import pytest
from flows.pull_request import draw_picture, list_plots
from PIL import Image

from conftest import ROOT, git
from relearn.errors import RelearnError

WORKFLOW = ROOT / ".github" / "workflows" / "check.yml"
ROWS = {
    "roc": [{"x": 0, "y": 0, "rev": "a"}, {"x": 0, "y": 0.9, "rev": "a"}, {"x": 1, "y": 1, "rev": "a"}],
    "precision_recall": [{"x": 0, "y": 1, "rev": "a"}, {"x": 1, "y": 0.5, "rev": "a"}],
    "calibration": [
        {"x": 0.5, "y": 0.25, "n_images": "1", "rev": "a"},
        {"x": 0.9, "y": 0.9, "n_images": "400", "rev": "a"},
    ],
}


def check_schema(kind, path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", kind, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_workflow_follows_the_schema_and_runs_targets_of_the_makefile(tmp_path):
    answer = check_schema("vendor.github-workflows", WORKFLOW)
    assert answer.returncode == 0, answer.stdout
    text = WORKFLOW.read_text()
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(text.replace("runs-on:", "runs_on:"))
    assert check_schema("vendor.github-workflows", wrong).returncode == 1
    targets = set(re.findall(r"make ([a-z-]+)", text))
    assert {"setup", "check", "test", "repro", "pull-request"} == targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def test_gitlab_of_the_docs_follows_the_schema(tmp_path):
    (content,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "evaluation-page.md").read_text(), re.DOTALL)
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(content)
    answer = check_schema("vendor.gitlab-ci", path)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("name", ROWS)
def test_templates_of_the_plots_can_be_drawn(name):
    """DVC fills its anchors so; what is not drawn would be white."""
    template = (ROOT / ".dvc" / "plots" / f"{name}.json").read_text()
    anchors = {"DATA": ROWS[name], "COLOR": {"field": "rev"}, "TOOLTIP": [{"field": "x"}]}
    for anchor, value in anchors.items():
        template = template.replace(f'"<DVC_METRIC_{anchor}>"', json.dumps(value))
    for anchor, text in {"TITLE": "a title", "X": "x", "Y": "y", "X_LABEL": "one", "Y_LABEL": "two"}.items():
        template = template.replace(f"<DVC_METRIC_{anchor}>", text)
    assert "<DVC" not in template
    specs = list_plots({"data": {"a title": [{"type": "vega", "content": json.loads(template)}, {"type": "image"}]}})
    image = Image.open(io.BytesIO(draw_picture(specs["a title"]))).convert("L")
    empty = json.loads(template)
    empty["data"]["values"] = []
    blank = Image.open(io.BytesIO(draw_picture(empty))).convert("L")
    dark = sum(image.histogram()[:200])
    assert dark > sum(blank.histogram()[:200]) > 0


def test_confusion_is_drawn_with_its_numbers():
    """The template is DVC's own; the numbers are behind a checkbox there."""
    from dvc_render.vega_templates import ConfusionTemplate

    template = json.dumps(ConfusionTemplate.DEFAULT_CONTENT)
    rows = [{"x": x, "y": y, "rev": "a"} for x, y in ("aa", "aa", "ab", "bb")]
    anchors = {"DATA": rows, "GROUP_BY_X": ["rev", "x"], "GROUP_BY_Y": ["rev", "y"], "ROW": None}
    for anchor, value in (anchors | {"PLOT_WIDTH": 200, "PLOT_HEIGHT": 200}).items():
        template = template.replace(f'"<DVC_METRIC_{anchor}>"', json.dumps(value))
    for anchor, text in {"TITLE": "a title", "X": "x", "Y": "y", "X_LABEL": "one", "Y_LABEL": "two"}.items():
        template = template.replace(f"<DVC_METRIC_{anchor}>", text)
    assert "<DVC" not in template
    spec = json.loads(template)
    del spec["facet"]["row"]
    with_numbers = draw_picture(spec)
    del spec["params"][0]["bind"]
    assert with_numbers != draw_picture(spec)


def test_a_plot_that_cannot_be_drawn_is_an_error():
    answer = {"errors": [{"name": "reports/plots/roc.csv", "msg": "No such\nfile"}], "data": {}}
    with pytest.raises(RelearnError, match=r"^dvc plots diff: reports/plots/roc\.csv cannot be drawn: No such file; "):
        list_plots(answer)
    assert list_plots({}) == {}


def test_pictures_get_a_branch_of_their_own(tmp_path):
    remote, clone, pictures = tmp_path / "remote.git", tmp_path / "clone", tmp_path / "pictures"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    git(tmp_path, "clone", "--quiet", str(remote), str(clone))
    (clone / "file").write_text("staged\n")
    git(clone, "add", "file")
    pictures.mkdir()
    (pictures / "comment.md").write_text("text")
    for number, folder in enumerate(("7/1", "8/1")):
        (pictures / "roc.png").write_bytes(b"picture %d" % number)
        subprocess.run([ROOT / ".github" / "publish_pictures.sh", pictures, folder], cwd=clone, check=True)
    listed = git(remote, "ls-tree", "-r", "--name-only", "pull-request-pictures").split()
    assert listed == ["7/1/roc.png", "8/1/roc.png"]
    assert git(remote, "show", "pull-request-pictures:7/1/roc.png") == "picture 0"
    assert git(clone, "status", "--short").strip() == "A  file"
