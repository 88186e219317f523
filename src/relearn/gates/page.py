"""`reports/validation.html`: what the gate found, on one page with pictures that loads no other file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from relearn import paths
from relearn.dataset.corrections import Corrected
from relearn.dataset.manifest import SPLITS, Exclusion
from relearn.images.thumbnails import draw_picture

TEMPLATE = Path(__file__).with_name("page.html")

N_SAMPLES = 4  # of each class
N_CLASSES = 60  # in the picture of the balance
N_EXCLUDED = 500
N_CORRECTED = 200


class Thumbnail(NamedTuple):
    """An image small enough to stand on a page, as a data URI, and where and what it is."""

    uri: str
    path: str
    place: str
    size: str
    source_path: str


class Bar(NamedTuple):
    """A class: the number of its images in each split, the bar length in percent of the longest, and some images."""

    label: str
    counts: list[tuple[str, int, float]]
    samples: list[Thumbnail]


def draw_page(
    report: dict[str, Any],
    manifest: pd.DataFrame,
    details: pd.DataFrame,
    excluded: list[Exclusion],
    corrected: Sequence[Corrected] = (),
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    report
        What `reports/validation.json` says.
    manifest, details
        One row per image, in the same order.
    """
    from jinja2 import Environment, StrictUndefined

    columns = ["path", "split", "label", "width_px", "height_px"]
    rows = manifest.assign(source_path=details["source_path"])
    # Missing cells are reported in words; their rows cannot be drawn.
    rows = rows.dropna(subset=columns) if set(columns) <= set(rows) else pd.DataFrame(columns=[*columns, "source_path"])
    failed = [finding for finding in report["findings"] if not finding["passed"]]
    failed.sort(key=lambda finding: finding["severity"])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        failed=[(finding, draw_groups(finding["images"], rows)) for finding in failed],
        n_checks=sum(finding["severity"] != "off" for finding in report["findings"]),
        n_errors=sum(finding["severity"] == "error" for finding in failed),
        bars=draw_bars(rows),
        n_classes=len(report["classes"]),
        splits=SPLITS,
        excluded=draw_excluded(excluded[:N_EXCLUDED], rows),
        n_excluded=len(excluded),
        kinds=Counter(exclusion.kind for exclusion in excluded).most_common(),
        corrected=draw_corrected(corrected[:N_CORRECTED], rows),
        n_corrected=len(corrected),
        paths=paths,
    )


def draw_groups(groups: list[list[str]], rows: pd.DataFrame) -> list[list[Thumbnail]]:
    """Return the thumbnails of groups of paths."""
    wanted = {path for group in groups for path in group}
    found = {row["path"]: row for row in rows[rows["path"].isin(wanted)].to_dict("records")} if wanted else {}
    return [[draw_thumbnail(found[path]) for path in group if path in found] for group in groups]


def draw_excluded(excluded: list[Exclusion], rows: pd.DataFrame) -> list[tuple[Exclusion, Thumbnail | None]]:
    """Return each exclusion with a thumbnail of its copy in the dataset, if there is one."""
    copies = {exclusion: exclusion.copied for exclusion in excluded if exclusion.copied}
    if not copies:
        return [(exclusion, None) for exclusion in excluded]
    kept = {row["source_path"]: row for row in rows[rows["source_path"].isin(copies.values())].to_dict("records")}
    drawn = {path: draw_thumbnail(row) for path, row in kept.items()}
    return [(exclusion, drawn.get(copies.get(exclusion, ""))) for exclusion in excluded]


def draw_corrected(corrected: Sequence[Corrected], rows: pd.DataFrame) -> list[tuple[Corrected, Thumbnail | None]]:
    """Return each correction with a thumbnail, if its image is in the dataset."""
    wanted = {row.path for row in corrected}
    found = {row["source_path"]: row for row in rows[rows["source_path"].isin(wanted)].to_dict("records")}
    return [(row, draw_thumbnail(found[row.path]) if row.path in found else None) for row in corrected]


def draw_thumbnail(row: dict[Any, Any]) -> Thumbnail:
    """Return an image of the dataset as a thumbnail; its picture is empty if it cannot be read."""
    texts = (
        row["path"],
        f"{row['split']} / {row['label']}",
        f"{row['width_px']} x {row['height_px']} px",
        row["source_path"],
    )
    return Thumbnail(draw_picture(row["path"]), *texts)


def draw_bars(rows: pd.DataFrame) -> list[Bar]:
    """Return the bars of the classes, the largest first; above `N_CLASSES`, only the largest and the smallest."""
    counts = rows.groupby(["label", "split"]).size().unstack(fill_value=0).reindex(columns=list(SPLITS), fill_value=0)
    order = sorted(counts.index, key=lambda label: (-int(counts.loc[label].sum()), label))
    if len(order) > N_CLASSES:
        order = order[: N_CLASSES // 2] + order[-N_CLASSES // 2 :]
    longest = max(counts.to_numpy().max(initial=1), 1)
    bars = []
    for label in order:
        samples = rows[rows["label"] == label].head(N_SAMPLES).to_dict("records")
        sizes = [(split, int(counts.loc[label, split])) for split in SPLITS]
        bars.append(
            Bar(
                label,
                [(split, n, round(100 * n / longest, 1)) for split, n in sizes],
                list(map(draw_thumbnail, samples)),
            )
        )
    return bars
