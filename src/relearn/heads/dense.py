"""A dense head: a hidden layer with dropout, trained by keras on features."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from relearn.errors import TrainingError
from relearn.heads.fitted import LayeredHead
from relearn.heads.options import Options
from relearn.heads.training_data import TrainingData
from relearn.runtime.backend import use_keras


@dataclass(frozen=True)
class DenseOptions(Options):
    """Those of `relearn.params.heads.DenseParams`."""

    units: int
    dropout: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int


def fit_dense(options: DenseOptions, data: TrainingData, sample_weights: np.ndarray) -> LayeredHead:
    """Train a hidden layer and an output layer, and keep the best epoch, that of the lowest validation loss.

    Training ends `patience` epochs after the best epoch, and has then converged, or after `epochs`.
    """
    with use_keras("float32") as keras:
        return _fit(keras, options, data, sample_weights)


def _fit(keras: Any, options: DenseOptions, data: TrainingData, sample_weights: np.ndarray) -> LayeredHead:
    present = sample_weights > 0
    keras.utils.set_random_seed(data.params.seed)
    model = keras.Sequential(
        [
            keras.Input((len(data.mean),)),
            keras.layers.Dense(options.units, activation="relu"),
            keras.layers.Dropout(options.dropout),
            keras.layers.Dense(len(data.classes)),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(options.learning_rate, weight_decay=options.weight_decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    validation = data.standardize(data.validation.features).astype(np.float32)
    history = model.fit(
        data.standardize(data.training.features[present]).astype(np.float32),
        data.labels[present],
        # Their mean is that of the images' weights, so that views do not change the length of a step.
        sample_weight=sample_weights[present] * (1 + data.n_views),
        validation_data=(validation, data.validation_labels),
        batch_size=options.batch_size,
        epochs=options.epochs,
        callbacks=[keras.callbacks.EarlyStopping(patience=options.patience, restore_best_weights=True)],
        verbose=0,
    )
    losses = history.history["val_loss"]
    if not np.isfinite(losses).all():
        epoch = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
        raise TrainingError(
            where=f"train.dense.learning_rate {options.learning_rate:g}",
            wanted="a finite validation loss",
            got=f"NaN or infinity in epoch {epoch}",
            advice="lower it",
        )
    hidden, output = ([np.asarray(w, np.float64) for w in layer.get_weights()] for layer in model.layers[::2])
    if len(data.classes) == 2:  # a softmax over two outputs is the logistic function of their difference
        output = [output[0][:, 1:] - output[0][:, :1], output[1][1:] - output[1][:1]]
    layers = [(hidden[0], hidden[1]), (output[0], output[1])]
    return LayeredHead(data.mean, data.scale, layers, True, int(np.argmin(losses)) + 1, len(losses) < options.epochs)
