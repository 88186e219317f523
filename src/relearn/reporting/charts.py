"""Charts as inline SVG, which take their colors from the page and need no script.

A chart is 330 units wide and 300 high; its frame is a square.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

LEFT, TOP, SIDE = 56, 10, 250
MIN_RADIUS, MAX_RADIUS = 1.5, 14
TEXT = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
CIRCLE = Markup('<circle class="point" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')


class Axis(NamedTuple):
    """The name of an axis, its ends, and where it has ticks."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]


def make_unit_axis(label: str) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(label, 0, 1, (0, 0.25, 0.5, 0.75, 1))


def make_axis(label: str, values: np.ndarray, ticks: Sequence[float] = ()) -> Axis:
    """Return an axis that shows all values, by default with five ticks."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Axis(label, low, high, ticks or np.linspace(low, high, 5).tolist())


def draw_chart(title: str, x: Axis, y: Axis, *content: Markup) -> Markup:
    """Return a chart with its frame, ticks and labels; `content` lies within the frame."""
    grid, texts = [], []
    for value in x.ticks:
        px = place(value, x)
        grid.append(f"M{px:g} {TOP}v{SIDE}")
        texts.append(TEXT.format(px, TOP + SIDE + 15, "middle", f"{value:.3g}"))
    for value in y.ticks:
        py = place_up(value, y)
        grid.append(f"M{LEFT} {py:g}h{SIDE}")
        texts.append(TEXT.format(LEFT - 5, py + 4, "end", f"{value:.3g}"))
    return Markup(
        '<svg viewBox="0 0 330 300" role="img" aria-label="{}"><title>{}</title><path class="grid" d="{}"/>{}'
        '<text x="{}" y="{}" text-anchor="middle" class="label">{}</text>'
        '<text x="10" y="{}" text-anchor="middle" class="label" transform="rotate(-90 10 {})">{}</text>{}</svg>'
    ).format(
        *(title, title, "".join(grid), Markup("").join(texts)),
        *(LEFT + SIDE / 2, TOP + SIDE + 33, x.label),
        *(TOP + SIDE / 2, TOP + SIDE / 2, y.label),
        Markup("").join(content),
    )


def place(value: float, axis: Axis) -> float:
    """Return where a value lies on the x axis."""
    return round(LEFT + SIDE * (value - axis.low) / (axis.high - axis.low), 1)


def place_up(value: float, axis: Axis) -> float:
    """Return where a value lies on the y axis, which points up."""
    return round(TOP + SIDE * (axis.high - value) / (axis.high - axis.low), 1)


def draw_line(points: np.ndarray, x: Axis, y: Axis, style: str = "line") -> Markup:
    """Return a line through points (points, 2), of a class of the page's style sheet."""
    corners = dict.fromkeys(
        f"{place(a, x):g} {place_up(b, y):g}" for a, b in points
    )  # the same point twice adds nothing
    return Markup('<path class="{}" d="M{}"/>').format(style, "L".join(corners))


def draw_band(points: np.ndarray, x: Axis, y: Axis) -> Markup:
    """Return the area between the second and third column of points (points, 3)."""
    outline = np.vstack([points[:, [0, 1]], points[::-1][:, [0, 2]]])
    return draw_line(outline, x, y, "band")


def draw_points(points: np.ndarray, sizes: Sequence[int], x: Axis, y: Axis) -> Markup:
    """Return points (points, 2) as circles whose areas are as their sizes, each with its size as a title."""
    largest = max(sizes, default=1)
    circles = []
    for (a, b), size in zip(points, sizes, strict=True):
        radius = max(MIN_RADIUS, MAX_RADIUS * (size / largest) ** 0.5)
        text = f"{size:,} images: {x.label} {a:.3f}, {y.label} {b:.3f}"
        circles.append(CIRCLE.format(place(a, x), place_up(b, y), f"{radius:.1f}", text))
    return Markup("").join(circles)
