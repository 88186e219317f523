"""Copies of a network in which some layers are replaced."""

from collections.abc import Callable
from typing import Any


def rewrite_network(
    keras: Any,
    model: Any,
    replace: Callable[[Any], Any | None] = lambda _: None,
    call: Callable[..., Any] | None = None,
) -> Any:
    """Return a copy of a functional model in which some layers are replaced.

    Parameters
    ----------
    replace
        Takes a layer; returns the one in its place, with its weights set, or None for a plain copy.
    call
        The `call_function` of `keras.models.clone_model`: how a copied layer is called.
    """
    plain: list[tuple[Any, Any]] = []

    def _copy_layer(layer: Any) -> Any:
        if (other := replace(layer)) is not None:
            return other
        copied = type(layer).from_config(layer.get_config())
        plain.append((layer, copied))
        return copied

    rewritten = keras.models.clone_model(model, clone_function=_copy_layer, call_function=call)
    for layer, copied in plain:
        if getattr(layer, "weights", None):  # an operation such as an addition has none
            copied.set_weights(layer.get_weights())
        if hasattr(copied, "finalize_state"):
            # `Normalization` computes with constants, which are made from its weights here and never again.
            copied.finalize_state()
    return rewritten
