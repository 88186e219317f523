"""The confusion matrix as a picture."""

from collections import Counter
from collections.abc import Iterable
from html import escape

CELL_PX = 44
LETTER_PX = 8
N_LETTERS = 16
MAX_CLASSES = 40  # above, cells are smaller and without numbers


def draw_confusion(pairs: Iterable[tuple[str, str]]) -> str:
    """Draw how often each class (a row) was predicted as each (a column) as SVG; colors show shares of a row.

    Parameters
    ----------
    pairs
        Label and predicted class of each image.
    """
    counts = Counter(pairs)
    classes = sorted({name for pair in counts for name in pair})
    numbered = len(classes) <= MAX_CLASSES
    cell = CELL_PX if numbered else max(4, CELL_PX * MAX_CLASSES // len(classes))
    totals = Counter[str]()
    for (label, _), n in counts.items():
        totals[label] += n
    margin = 32 + LETTER_PX * (min(max(map(len, classes)), N_LETTERS) if numbered else 0)
    side = margin + cell * len(classes) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" viewBox="0 0 {side} {side}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{side}" height="{side}" fill="#fff"/>',
        '<text x="8" y="18">rows: label, columns: predicted</text>',
    ]
    for number, name in enumerate(classes):
        middle = margin + cell * number + cell // 2
        short = escape(name if len(name) <= N_LETTERS else f"{name[: N_LETTERS - 1]}…")
        if numbered:
            parts.append(f'<text x="{margin - 8}" y="{middle + 4}" text-anchor="end">{short}</text>')
            parts.append(f'<text transform="translate({middle + 4},{margin - 8}) rotate(-90)">{short}</text>')
        for column, predicted in enumerate(classes):
            n = counts[name, predicted]
            share = n / totals[name] if totals[name] else 0.0
            x, y = margin + cell * column, margin + cell * number
            hue = "27,110,60" if name == predicted else "179,38,30"
            opacity = 0.0 if n == 0 else 0.15 + 0.85 * share
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="rgb({hue})" fill-opacity="{opacity:.3f}" '
                'stroke="#d8dee6"/>'
            )
            if numbered and n:
                ink = "#fff" if opacity > 0.5 else "#1c2127"
                parts.append(
                    f'<text x="{x + cell // 2}" y="{y + cell // 2 + 4}" text-anchor="middle" fill="{ink}">{n:,}</text>'
                )
    return "".join([*parts, "</svg>"])
