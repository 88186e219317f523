"""The scores of a head for a split, and which of its answers are right."""

from collections.abc import Sequence

import numpy as np

from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.fitted import Head


def compute_scores(head: Head, blocks: Sequence[np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
    """Return the scores of a split's rows, or of those chosen by `rows` (rows,) bool: (rows, outputs) float64."""
    parts, start = [], 0
    for block in blocks:
        chosen = block if rows is None else block[rows[start : start + len(block)]]
        start += len(block)
        if len(chosen):
            parts.append(head.compute_scores(chosen))
    return np.concatenate(parts)


def judge_scores(head: Head, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return which answers are right, (images,) bool, and the log loss of each if the head has probabilities."""
    predicted = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(np.int64)
    if not head.has_probabilities:
        return predicted == labels, None
    given = UNCALIBRATED.compute_probabilities(scores)[np.arange(len(labels)), labels]
    return predicted == labels, -np.log(np.maximum(given, np.finfo(np.float64).eps))
