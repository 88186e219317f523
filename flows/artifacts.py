"""What the UI shows of a run beside its logs."""

import base64
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from relearn import paths
from relearn.evaluation.confusion import draw_confusion
from relearn.retraining.arrivals import Left
from relearn.runtime.text import count_nouns, escape_markdown

N_IMAGES = 20
N_LEFT = 1000

# The stages that check, the artifact with what they found, and their report.
GATES = {"validate": ("validation", paths.VALIDATION_REPORT), "verify": ("verification", paths.VERIFICATION_REPORT)}


def publish_findings(root: Path, key: str, path: Path) -> None:
    """Publish the report of a gate, if there is one, as a markdown artifact."""
    if not (root / path).exists():
        return
    report = json.loads((root / path).read_text())
    title = f"{key.capitalize()} {'passed' if report['passed'] else 'failed'}"
    lines = [f"## {title}: {report['n_images']:,} images", ""]
    lines += ["| check | severity | wanted | found | passed | first rows |", "| --- | --- | --- | --- | --- | --- |"]
    for finding in report["findings"]:
        rows = "<br>".join(escape_markdown(row) for row in finding["rows"][:5])
        mark = "yes" if finding["passed"] else "**no**"
        cells = [finding["name"], finding["severity"], finding["wanted"], finding["observed"]]
        lines.append(f"| {' | '.join(escape_markdown(cell) for cell in cells)} | {mark} | {rows} |")
    create_markdown_artifact(key=key, markdown="\n".join(lines), description=title)


def publish_decision(decision: dict[str, Any], version: str | None) -> None:
    """Publish what was decided, in words, and the metrics of both, with intervals, as a table."""
    promoted = decision["promoted"]
    lines = [f"## {'Promoted' if promoted else 'Not promoted'}: {decision['verdict']}", ""]
    lines += [escape_markdown(line) for line in decision["reason"].split("; ")]
    if decision["n_judged"]:
        lines += ["", f"Judged on {decision['n_judged']:,} evaluation images, {decision['n_new']:,} of them new."]
    for title, key in (("the champion", "only_champion"), ("the challenger", "only_challenger")):
        if decision[key]:
            lines += ["", f"Right with {title} alone:", ""]
            lines += [f"- {escape_markdown(image['path'])}" for image in decision[key][:N_IMAGES]]
            lines += [f"- and {len(decision[key]) - N_IMAGES:,} more"] * (len(decision[key]) > N_IMAGES)
    title = f"{'promoted' if promoted else 'not promoted'}, {decision['verdict']}"
    create_markdown_artifact(key="verdict", markdown="\n".join(lines), description=title)
    if decision["differences"]:
        table = [
            {
                "metric": metric["name"],
                version or "champion": round(metric["first"], 4),
                "challenger": round(metric["second"], 4),
                "difference": f"{metric['difference']:+.4f}",
                "95 % interval": f"{metric['low']:+.4f} to {metric['high']:+.4f}",
            }
            for metric in decision["differences"]
        ]
        create_table_artifact(key="comparison", table=table, description="Champion and challenger")


def publish_left(key: str, rows: Sequence[tuple[str, Left]]) -> None:
    """Publish the files that were not taken or are not used, with what became of each and why, as a table."""
    table = [
        {"file": escape_markdown(path), "state": escape_markdown(what), "reason": escape_markdown(reason)}
        for what, (path, reason) in rows[:N_LEFT]
    ]
    shown = f"; the first {len(table):,}" if rows[N_LEFT:] else ""
    create_table_artifact(
        key=key, table=table, description=f"{count_nouns(len(rows), 'file')} not taken or not used{shown}"
    )


def publish_confusion(root: Path) -> None:
    """Publish the confusion matrix as an image."""
    with (root / paths.PREDICTIONS).open(encoding="utf-8", newline="") as file:
        svg = draw_confusion((row["label"], row["predicted"]) for row in csv.DictReader(file))
    encoded = base64.b64encode(svg.encode()).decode()
    create_image_artifact(
        key="confusion", image_url=f"data:image/svg+xml;base64,{encoded}", description="Confusion of the challenger"
    )


def publish_mistakes(markdown: list[str], page: Path) -> None:
    """Publish the most confident mistakes, with pictures, and a link to the page of all."""
    lines = [
        "## Mistakes",
        "",
        "\n\n".join(markdown),
        "",
        f"All of them: [{escape_markdown(str(page))}]({page.as_uri()})",
    ]
    title = "The images that the challenger gets wrong"
    create_markdown_artifact(key="mistakes", markdown="\n".join(lines), description=title)
