"""What a pull request changes: a comment in Markdown with the comparison, the metrics, and pictures of the plots."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.child import exit_with
from relearn.commands.compare import compare_revisions, describe_markdown
from relearn.errors import RelearnError
from relearn.storage.files import write_folder

FOLDER = Path("reports/pull-request")
COMMENT = "comment.md"
VEGA_LITE = "5.20"  # the templates of DVC are for version 5


def write_comment(base: str, address: str) -> Path:
    """Write the comment and the pictures, and return the folder.

    Parameters
    ----------
    base
        The revision that the pull request would be merged into; the workspace is compared with it.
    address
        Of the folder that the pictures will be in; empty for the folder of the comment.

    Raises
    ------
    RelearnError
        The two cannot be compared, or DVC fails.
    """
    parts = [describe_markdown(compare_revisions(base, "workspace"))]
    metrics = run_dvc("metrics", "diff", "--md", base).strip()
    parts.append(f"<details><summary>metrics that differ</summary>\n\n{metrics or 'none'}\n\n</details>")
    pictures = {
        re.sub("[^a-z0-9]+", "-", title.lower()) + ".png": (title, spec)
        for title, spec in list_plots(json.loads(run_dvc("plots", "diff", "--json", base))).items()
    }
    prefix = f"{address.rstrip('/')}/" if address else ""
    parts.append(" ".join(f"![{title}]({prefix}{name})" for name, (title, _) in pictures.items()))
    with write_folder(FOLDER) as partial:
        for name, (_, spec) in pictures.items():
            (partial / name).write_bytes(draw_picture(spec))
        (partial / COMMENT).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return FOLDER


def run_dvc(*arguments: str) -> str:
    """Return what a command of DVC prints.

    Raises
    ------
    RelearnError
        It failed.
    """
    answer = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RelearnError(" ".join(answer.stderr.split())[-500:], where=f"dvc {' '.join(arguments)}")
    return answer.stdout


def list_plots(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite specification of each plot of `dvc plots diff --json` by its title.

    Raises
    ------
    RelearnError
        A plot cannot be drawn.
    """
    if errors := answer.get("errors"):
        names = ", ".join(sorted({str(error.get("name")) for error in errors}))
        problem = " ".join(str(errors[0].get("msg")).split())
        raise RelearnError(f"{names} cannot be drawn: {problem}", where="dvc plots diff", advice="run `dvc repro`")
    drawn = answer.get("data", {})
    return {title: plot["content"] for title, plots in drawn.items() for plot in plots if plot["type"] == "vega"}


def draw_picture(spec: dict[str, Any]) -> bytes:
    """Return the picture of a specification as PNG; neither a browser nor the internet is needed.

    What a reader of a page would switch on by a checkbox, such as the numbers of a confusion matrix, is on.
    """
    import vl_convert

    switches = [
        parameter | ({"value": True} if parameter.get("bind") == {"input": "checkbox"} else {})
        for parameter in spec.get("params", [])
    ]
    spec = spec | ({"params": switches} if switches else {})
    picture: bytes = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=1.5)
    return picture


def main() -> None:
    """Write the comment, and print where it is."""
    parser = argparse.ArgumentParser(prog="make pull-request")
    parser.add_argument("base", help="the revision that the pull request would be merged into")
    parser.add_argument("--address", default="", help="of the folder that the pictures will be in")
    options = parser.parse_args()
    try:
        folder = write_comment(options.base, options.address)
    except RelearnError as error:
        exit_with(error)
    sys.stdout.write(f"{folder / COMMENT}\n")


if __name__ == "__main__":
    main()
