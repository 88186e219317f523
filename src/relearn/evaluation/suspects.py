"""Which labels to look at first: how well the label of each image agrees with probabilities that did not see it."""

from typing import NamedTuple

import numpy as np

LEAST = 1e-12  # of a probability whose logarithm is taken
MAX_ERROR_RATE = 0.5  # beyond it most labels are wrong, and none says what a class is
MAX_SHARPNESS = 32.0
N_TRIED = 12  # values of each parameter
MAX_ROWS = 20_000  # from which the share of wrong labels is estimated
MAX_PROBABILITIES = 2_000_000  # of the rows that are sharpened at once


class Suspicion(NamedTuple):
    """How doubtful each label is; all arrays have the shape (images,).

    margins : probability of the label minus that of the likeliest other class, -1 to 1; below 0 the other is likelier
    p_wrong : the estimated probability that the label is wrong
    order : the numbers of the images, those of the smallest margin first, in a tie the first image
    """

    margins: np.ndarray
    p_wrong: np.ndarray
    order: np.ndarray


class NoisyLabels(NamedTuple):
    """A model of labels with errors.

    error_rate : the probability that a label is wrong, whatever the image; each of the other classes is as likely
    sharpness : the exponent of the probabilities, before they are normalized: above 1 makes them more confident
    """

    error_rate: float
    sharpness: float


def rank_labels(probabilities: np.ndarray, labels: np.ndarray) -> Suspicion:
    """Rank labels by their margin, which Northcutt, Jiang and Chuang (2021, "Confident learning") call normalized.

    Parameters
    ----------
    probabilities : ndarray (images, classes) float64
        By classifiers that were not fitted on the image.
    labels : ndarray (images,) int64
        The number of the class that each image is labeled with.
    """
    margins = compute_margins(probabilities, labels)
    p_wrong = compute_p_wrong(probabilities, labels, fit_noisy_labels(probabilities, labels))
    return Suspicion(margins, p_wrong, np.argsort(margins, kind="stable"))


def compute_margins(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability of each label minus that of the likeliest other class, (images,)."""
    others = probabilities.copy()
    rows = np.arange(len(labels))
    others[rows, labels] = -1
    return np.asarray(probabilities[rows, labels] - others.max(axis=1))


def fit_noisy_labels(probabilities: np.ndarray, labels: np.ndarray) -> NoisyLabels:
    """Fit the share of wrong labels by maximum likelihood.

    The labels of images that lie between classes have small probabilities, but seldom tiny ones; a wrong label has a
    tiny one. So labels are wrong if more of them have tiny probabilities than a calibrated classifier would give. The
    sharpness is fitted together with the error rate: a calibration on labels with errors makes the probabilities less
    confident to account for them. The likelihood of a label is (1 - e) q + e (1 - q) / (classes - 1), with its
    sharpened probability q and the error rate e.

    A large set is fitted by evenly spaced rows, at most `MAX_ROWS` of them with `MAX_PROBABILITIES` in all.
    """
    from scipy.optimize import brute

    n_images, n_classes = probabilities.shape
    n_rows = min(n_images, MAX_ROWS, max(1, MAX_PROBABILITIES // n_classes))
    rows = np.arange(n_rows) * n_images // n_rows
    logs, labels = np.log(np.clip(probabilities[rows], LEAST, None)), labels[rows]

    def _compute_loss(point: np.ndarray) -> float:
        error_rate, sharpness = np.minimum(np.exp(point), [MAX_ERROR_RATE, MAX_SHARPNESS])
        q = _sharpen(logs, labels, sharpness)
        return float(-np.log((1 - error_rate) * q + error_rate * (1 - q) / (n_classes - 1)).mean())

    # The likelihood has a second, lower maximum without errors, so a search from one point may miss the first.
    ranges = [(np.log(least), np.log(most)) for least, most in ((1e-4, MAX_ERROR_RATE), (0.25, MAX_SHARPNESS))]
    best = np.exp(brute(_compute_loss, ranges, Ns=N_TRIED, disp=False))
    return NoisyLabels(float(min(best[0], MAX_ERROR_RATE)), float(min(best[1], MAX_SHARPNESS)))


def compute_p_wrong(probabilities: np.ndarray, labels: np.ndarray, noise: NoisyLabels) -> np.ndarray:
    """Return the probability that each label is wrong, (images,), by Bayes' rule for `noise`."""
    n_images, n_classes = probabilities.shape
    n_rows = max(1, MAX_PROBABILITIES // n_classes)
    q = np.empty(n_images)
    for block in (slice(first, first + n_rows) for first in range(0, n_images, n_rows)):
        q[block] = _sharpen(np.log(np.clip(probabilities[block], LEAST, None)), labels[block], noise.sharpness)
    wrong = noise.error_rate * (1 - q) / (n_classes - 1)
    return np.asarray(wrong / (wrong + (1 - noise.error_rate) * q))


def _sharpen(logs: np.ndarray, labels: np.ndarray, sharpness: float) -> np.ndarray:
    """Return the sharpened probability of each label, (rows,), of the logarithms (rows, classes)."""
    from scipy.special import softmax

    return np.asarray(softmax(sharpness * logs, axis=1)[np.arange(len(labels)), labels])
