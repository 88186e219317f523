"""A network with some of its layers exchanged, all others as they are."""

from collections.abc import Callable
from typing import Any


def rewrite_network(
    keras: Any,
    model: Any,
    exchange: Callable[[Any], Any | None] = lambda _: None,
    call: Callable[..., Any] | None = None,
) -> Any:
    """Return a copy of a functional model in which some layers are exchanged.

    Parameters
    ----------
    exchange
        Takes a layer; returns the layer in its place, with its weights set or none, or None for a plain copy.
    call
        How a copied layer is called, as `keras.models.clone_model` takes it.
    """
    plain: list[tuple[Any, Any]] = []

    def copy_layer(layer: Any) -> Any:
        if (other := exchange(layer)) is not None:
            return other
        copied = type(layer).from_config(layer.get_config())
        plain.append((layer, copied))
        return copied

    rewritten = keras.models.clone_model(model, clone_function=copy_layer, call_function=call)
    for layer, copied in plain:
        if getattr(layer, "weights", None):  # an operation such as an addition has none
            copied.set_weights(layer.get_weights())
        if hasattr(copied, "finalize_state"):
            # `Normalization` computes with constants that are made of its weights, and of no later ones.
            copied.finalize_state()
    return rewritten
