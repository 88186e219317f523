"""Kernels that add in one order each time: those of a processor do, those of a GPU have to be asked to."""

import os

from relearn.networks.hardware import find_backend, list_gpus


def ask_for_determinism() -> bool:
    """Ask for deterministic kernels, before keras is imported; return whether there will be no others.

    TensorFlow has none for some operations of a GPU, and raises `UnimplementedError` there. Other backends are not
    asked, because keras cannot.
    """
    if find_backend()[0] == "tensorflow" and os.environ.setdefault("TF_DETERMINISTIC_OPS", "1") == "1":
        return True
    return not list_gpus()


def allow_other_kernels() -> None:
    """Take `ask_for_determinism` back, also after keras was imported."""
    if find_backend()[0] == "tensorflow":
        from tensorflow.python.framework import config

        config.disable_op_determinism()
