"""What a fine-tuning leaves for a person to read."""

from typing import Any

from relearn.finetuning.activations import DTYPE
from relearn.finetuning.decision import Decision
from relearn.finetuning.network import TunableNetwork
from relearn.finetuning.progress import Epoch, Limits
from relearn.finetuning.training import Tuned


def describe_network(
    network: TunableNetwork, tuned: Tuned, limits: Limits, decision: Decision, weights_sha256: str | None
) -> dict[str, Any]:
    """Return the content of `models/network/network.json`; without the hash of its weights if it is not kept."""
    kept = {} if weights_sha256 is None else {"weights_sha256": weights_sha256}
    return {
        "tuned": decision.keeps,
        "reason": decision.reason,
        **kept,
        "first_layer": network.first_layer,
        "n_weights": network.n_weights,
        "n_learning": network.n_learning,
        "best_epoch": tuned.best_epoch,
        "activations_dtype": DTYPE.name,
        "batch_size": limits.batch_size,
        "deterministic": limits.deterministic,
    }


def summarize_training(tuned: Tuned, decision: Decision) -> dict[str, Any]:
    """Return the content of `metrics/finetuning.json`: both networks on the validation split, with the exact head."""
    best = tuned.history[tuned.best_epoch - 1]
    return {
        "n_epochs": len(tuned.history),
        "best_epoch": tuned.best_epoch,
        "tuned": decision.keeps,
        "n_images_below": tuned.n_images_below,
        "n_validation_images": tuned.paired.n_images,
        "pretrained_accuracy_score": round(tuned.pretrained.accuracy, 6),
        "tuned_accuracy_score": round(tuned.tuned.accuracy, 6),
        "own_head_accuracy_score": round(best.own_validation_accuracy, 6),
        "pretrained_log_loss": round(tuned.pretrained.log_loss, 6),
        "tuned_log_loss": round(tuned.tuned.log_loss, 6),
        "own_head_log_loss": round(best.own_validation_loss, 6),
        "p_value": round(tuned.paired.p_value, 6),
    }


def tabulate_curve(history: list[Epoch]) -> list[tuple[object, ...]]:
    """Return one row per epoch, with the fields of `Epoch` as columns."""
    return [
        (epoch.epoch, f"{epoch.learning_rate:.3g}", *(f"{x:.6f}" for x in epoch[2:8]), f"{epoch.C:g}")
        for epoch in history
    ]
