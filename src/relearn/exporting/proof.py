"""Whether an exported model answers as the pipeline does."""

from collections.abc import Sequence

import numpy as np

from relearn.errors import IntegrityError
from relearn.evaluation.intervals import CONFIDENCE
from relearn.evaluation.paired import compare_paired
from relearn.inference.exported import Proof

# Between probabilities. A feature that is rounded to float16 moves by a part in 2,000 where the last bit of float32
# decides which way.
MAX_DIFFERENCES = {"float32": 1e-4, "float16": 1e-3}
MIN_AGREEMENT = 0.99


def compare_answers(
    split: str, labels: Sequence[str], classes: Sequence[str], before: np.ndarray, after: np.ndarray
) -> Proof:
    """Compare the probabilities (images, classes) of network and head with those of the model, on the same pixels.

    Parameters
    ----------
    split
        Where the images are from.
    labels
        Of the images.
    """
    wanted = np.array([classes.index(label) if label in classes else -1 for label in labels])
    columns = before.argmax(axis=1), after.argmax(axis=1)
    right = [column == wanted for column in columns]
    return Proof(
        split=split,
        n_images=len(labels),
        n_same=int(np.count_nonzero(columns[0] == columns[1])),
        max_difference=round(float(np.abs(before - after).max()), 9),
        n_right_before=int(right[0].sum()),
        n_right=int(right[1].sum()),
        p_value=round(compare_paired(*right).p_value, 6),
    )


def check_equal(proof: Proof, feature_dtype: str) -> None:
    """Check that a model in float32 gives every label, and probabilities within 1e-4, or 1e-3 by float16 features.

    Raises
    ------
    IntegrityError
        It does not.
    """
    largest = MAX_DIFFERENCES[feature_dtype]
    if proof.n_same < proof.n_images or not proof.max_difference <= largest:
        raise IntegrityError(
            where="model.onnx",
            wanted=f"the labels of the pipeline on all {proof.n_images:,} images of {proof.split}, and probabilities "
            f"within {largest:g}",
            got=f"{describe_proof(proof)}; nothing was written",
            advice="report it, with this line and params.yaml",
        )


def check_alike(proof: Proof, option: str) -> None:
    """Check a model with an option that changes answers: 99 % of the labels, not significantly better or worse.

    Raises
    ------
    IntegrityError
        It does not.
    """
    if proof.n_same < MIN_AGREEMENT * proof.n_images or proof.p_value <= 1 - CONFIDENCE:
        raise IntegrityError(
            where=f"model.onnx with {option}",
            wanted=f"at least {MIN_AGREEMENT:.0%} of the labels, and p > {1 - CONFIDENCE:.2g} (McNemar's test)",
            got=f"{describe_proof(proof)}; nothing was written",
            advice=f"export without {option}",
        )


def describe_proof(proof: Proof) -> str:
    """Return what was measured as text."""
    return (
        f"{proof.n_same:,} of {proof.n_images:,} labels of {proof.split} the same, probabilities within "
        f"{proof.max_difference:.2g}, {proof.n_right:,} labels right ({proof.n_right_before:,} by the pipeline, "
        f"p = {proof.p_value:.2g})"
    )
