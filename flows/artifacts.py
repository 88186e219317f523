"""What the UI shows of a run beside its logs."""

import base64
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from relearn import paths
from relearn.evaluation.confusion import draw_confusion
from relearn.retraining.arrivals import Left
from relearn.runtime.text import count_nouns, escape_markdown

N_IMAGES = 20
N_ROWS = 5
N_LEFT = 1000

# The stages that check, the artifact with what they found, and their report.
GATES = {"validate": ("validation", paths.VALIDATION_REPORT), "verify": ("verification", paths.VERIFICATION_REPORT)}


def publish_findings(root: Path, key: str, path: Path) -> None:
    """Publish the report of a gate, if there is one, as a markdown artifact."""
    if not (root / path).exists():
        return
    report = json.loads((root / path).read_text())
    title = f"{key.capitalize()} {'passed' if report['passed'] else 'failed'}"
    lines = [f"## {title}: {count_nouns(report['n_images'], 'image')}", ""]
    failed = [finding for finding in report["findings"] if not finding["passed"]]
    failed.sort(key=lambda finding: bool(finding["severity"] != "error"))
    names = [f"{finding['name']} ({finding['severity']})" for finding in failed]
    lines += [_describe_finding(finding) for finding in failed] or ["All checks passed."]
    lines += ["", "| check | passed | found | wanted | severity |", "| --- | --- | --- | --- | --- |"]
    for finding in [*failed, *(finding for finding in report["findings"] if finding["passed"])]:
        mark = "yes" if finding["passed"] else "**no**"
        name, *cells = (escape_markdown(finding[column]) for column in ("name", "observed", "wanted", "severity"))
        lines.append(f"| {' | '.join([name, mark, *cells])} |")
    found = f": {', '.join(names)}" if names else ""
    create_markdown_artifact(key=key, markdown="\n".join(lines), description=f"{title}{found}")


def _describe_finding(finding: dict[str, Any]) -> str:
    """Return a failed check as an item of a list: what was found, what was wanted, the first rows."""
    name, severity, found, wanted = (
        escape_markdown(finding[column]) for column in ("name", "severity", "observed", "wanted")
    )
    rows = ", ".join(escape_markdown(row) for row in finding["rows"][:N_ROWS])
    return f"- **{name}** ({severity}): found {found}, wanted {wanted}{f': {rows}' if rows else ''}"


def name_run(name: str, tags: Sequence[str]) -> None:
    """Give the run a name and tags that tell how it ended; without an answer of the server it keeps its own."""
    if not flow_run.id:  # outside of a run
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), name=name, tags=[*flow_run.tags, *tags])
    except httpx.HTTPError as error:
        get_run_logger().warning("The run is not renamed to %s: %s", name, error)


def publish_decision(decision: dict[str, Any], version: str | None, is_dry: bool = False) -> None:
    """Publish what was decided, in words, and the metrics of both, with intervals, as a table."""
    promoted = decision["promoted"]
    ending = "Promoted" if promoted else "Not promoted"
    lines = [f"## {'Dry run, nothing is recorded: ' if is_dry else ''}{ending}: {decision['verdict']}", ""]
    lines += [escape_markdown(line) for line in decision["reason"].split("; ")]
    if decision["n_judged"]:
        n_judged = count_nouns(decision["n_judged"], "evaluation image")
        lines += ["", f"Judged on {n_judged}, {decision['n_new']:,} of them new."]
    for title, key in (("the champion", "only_champion"), ("the challenger", "only_challenger")):
        if decision[key]:
            lines += ["", f"Right with {title} alone:", ""]
            lines += [f"- {escape_markdown(image['path'])}" for image in decision[key][:N_IMAGES]]
            lines += [f"- and {len(decision[key]) - N_IMAGES:,} more"] * (len(decision[key]) > N_IMAGES)
    title = f"{ending.lower()}, {decision['verdict']}"
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
    """Publish the worst mistakes, with pictures and evidence maps, and a link to the page of all."""
    lines = [
        "## Mistakes",
        "",
        "\n\n".join(markdown),
        "",
        f"All of them: [{escape_markdown(str(page))}]({page.as_uri()})",
    ]
    title = "The images that the challenger gets wrong"
    create_markdown_artifact(key="mistakes", markdown="\n".join(lines), description=title)
