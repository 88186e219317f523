"""What to do about a class with few images, and what few images mean for the evaluation."""

import math

import pandas as pd

from relearn.dataset.manifest import SPLITS
from relearn.evaluation.intervals import compute_recall_margin
from relearn.gates.tables import count_images
from relearn.params.data import Minimum


def advise_more_images(manifest: pd.DataFrame, rule: Minimum) -> str:
    """Return how many images the smallest class lacks, or which minimum it meets and what that means.

    How many of the images that are added go to a split is taken from the share of all images that it has.
    """
    counts = count_images(manifest)
    if counts.empty:
        return "add images"
    smallest = counts.loc[counts["n_images"].idxmin()]
    n_images, label, split = int(smallest["n_images"]), smallest["label"], smallest["split"]
    n_in_split = int(counts.loc[counts["split"] == split, "n_images"].sum())
    if not n_in_split:
        return f"add images to {split}, or raise restructure.fractions"
    n_more = math.ceil((rule.min - n_images) * counts["n_images"].sum() / n_in_split)
    n_of_class = int(counts.loc[counts["label"] == label, "n_images"].sum())
    add = f"add about {n_more:,} images of {label}, of which {rule.min - n_images:,} go to {split}"
    if not n_images:
        return add
    return (
        f"{add}, or set validate.min_images.min to {n_images:,}: with as few for {SPLITS[-1]} the recall of a class is "
        f"known to within {compute_recall_margin(n_images):.0f} points, unless evaluate.by: folds judges all "
        f"{n_of_class:,} of {label}"
    )
