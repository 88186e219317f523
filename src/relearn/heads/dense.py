"""A dense head with dropout, trained by keras on features that are there already."""

from typing import Any

import numpy as np

from relearn.errors import TrainingError
from relearn.runtime.backend import import_keras

Layers = list[tuple[np.ndarray, np.ndarray]]


def fit_dense(
    *,
    training: np.ndarray,
    truth: np.ndarray,
    row_weights: np.ndarray,
    validation: np.ndarray,
    validation_truth: np.ndarray,
    n_classes: int,
    options: dict[str, Any],
    seed: int,
) -> tuple[Layers, int, bool]:
    """Train a hidden layer and an output layer, and return them as they were after the best epoch.

    The best epoch is that of the lowest validation loss; training ends `patience` epochs after it, or after `epochs`.

    Parameters
    ----------
    training, validation : ndarray (images, n_features) float32
        Standardised.
    options
        Those of `train.dense`, one value each.

    Returns
    -------
    layers
        Weights (inputs, outputs) and biases (outputs,) of the two layers, float64.
    n_epochs
        The best epoch, from 1.
    ended
        Whether the validation loss stopped falling before `epochs` were over.
    """
    keras = import_keras("float32")
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((training.shape[1],)),
            keras.layers.Dense(options["units"], activation="relu"),
            keras.layers.Dropout(options["dropout"]),
            keras.layers.Dense(n_classes),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(options["learning_rate"], weight_decay=options["weight_decay"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    stop = keras.callbacks.EarlyStopping(patience=options["patience"], restore_best_weights=True)
    history = model.fit(
        training,
        truth,
        sample_weight=row_weights,
        validation_data=(validation, validation_truth),
        batch_size=options["batch_size"],
        epochs=options["epochs"],
        callbacks=[stop],
        verbose=0,
    )
    losses = history.history["val_loss"]
    if not np.isfinite(losses).all():
        raise TrainingError(
            f"train.dense.learning_rate: {options['learning_rate']:g} made the loss NaN or infinite in epoch "
            f"{int(np.flatnonzero(~np.isfinite(losses))[0]) + 1}; lower it"
        )
    layers = [tuple(np.asarray(w, np.float64) for w in layer.get_weights()) for layer in model.layers if layer.weights]
    return layers, int(np.argmin(losses)) + 1, len(losses) < options["epochs"]  # type: ignore[return-value]
