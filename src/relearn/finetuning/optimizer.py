"""AdamW with a learning rate for each weight."""

from typing import Any

from relearn.networks.hardware import find_backend


def make_optimizer(keras: Any, rates: list[float], weight_decay: float) -> Any:
    """Return AdamW for weights of which each has its own share of the learning rate.

    Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2: a step takes away the learning
    rate times `weight_decay` of a weight, whatever its gradient is; here of kernels alone, because biases and the
    scales of a normalization have nothing to decay towards.

    Parameters
    ----------
    rates
        The share of each weight, in the order of the model's `trainable_variables`.
    """

    class ScaledAdamW(keras.optimizers.Adam):  # type: ignore[misc]
        """AdamW with rates of its own for each weight."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Update one weight; every backend of keras calls this for each of them."""
            rate = learning_rate * rates[self._get_variable_index(variable)]
            if weight_decay and len(variable.shape) > 1:
                decay = keras.ops.cast(rate * weight_decay, variable.dtype)
                self.assign_sub(variable, keras.ops.multiply(variable, decay))
            super().update_step(gradient, variable, rate)

    return ScaledAdamW(learning_rate=1.0)


def choose_compilation() -> str | bool:
    """Return the `jit_compile` of a model that is trained: TensorFlow's own kernels, which need no compiler."""
    return False if find_backend()[0] == "tensorflow" else "auto"
