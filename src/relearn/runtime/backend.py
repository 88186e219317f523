"""The import of keras, which takes seconds and half a gigabyte, and which a file in the home folder may change."""

import contextlib
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from relearn.errors import NetworkError

log = logging.getLogger(__name__)

# By default TensorFlow uses oneDNN only on processors with AVX512-VNNI or newer, and other code for convolutions on the
# rest. With oneDNN the features of a network have the same bits on both.
SETTINGS = {"TF_ENABLE_ONEDNN_OPTS": "1"} if platform.machine() in ("x86_64", "AMD64") else {}
HOW_TO_INSTALL = (
    "in a clone, `make setup` or `pip install '.[pipeline,cpu]'` installs TensorFlow; "
    "install another backend by hand and name it in KERAS_BACKEND"
)


@contextlib.contextmanager
def use_keras(precision: str) -> Iterator[Any]:
    """Import keras for a block that builds or trains networks, set it up, and put the caller's settings back after it.

    A network keeps the types that it was built with, so it may run after the block.

    Raises
    ------
    NetworkError
        The backend that `KERAS_BACKEND` names is not installed.
    """
    config = _import_keras().config
    before = config.floatx(), config.dtype_policy(), config.image_data_format()
    try:
        yield import_keras(precision)
    finally:
        _configure(config, *before)


def import_keras(precision: str) -> Any:
    """Import keras, and set it up for the whole process: for `float32` or `bfloat16`, the channels of images last.

    Raises
    ------
    NetworkError
        The backend that `KERAS_BACKEND` names is not installed.
    """
    keras = _import_keras()
    # ~/.keras/keras.json may have other values, with which the features would differ.
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    _configure(keras.config, "float32", policy, "channels_last")
    return keras


def _configure(config: Any, floatx: str, policy: Any, data_format: str) -> None:
    config.set_floatx(floatx)
    config.set_dtype_policy(policy)
    config.set_image_data_format(data_format)


def _import_keras() -> Any:
    if "tensorflow" in sys.modules and not SETTINGS.keys() <= os.environ.keys():
        log.warning(
            "TensorFlow was imported before relearn set it up, so features may differ in their last bits; load the "
            "classifier first, or set %s",
            " ".join(f"{name}={value}" for name, value in SETTINGS.items()),
        )
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "3", **SETTINGS}.items():
        os.environ.setdefault(name, value)
    try:
        with _hold_stderr():
            import keras
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())  # TensorFlow's is a traceback, with the cause after the last `Error:`
        advice = HOW_TO_INSTALL
        if "failed to map segment" in reason or "allocate memory" in reason:
            advice = "there is too little memory: raise the limits (ulimit -a), or use a larger machine"
        raise NetworkError(
            f"keras cannot be imported with the backend {os.environ.get('KERAS_BACKEND', 'tensorflow')}: "
            f"{reason.rsplit('Error: ', 1)[-1][:200]}",
            advice=advice,
        ) from None
    return keras


@contextlib.contextmanager
def _hold_stderr() -> Iterator[None]:
    """Hold back the output of native code while a block runs, and print it only if the block fails.

    TensorFlow logs a line about oneDNN at every import, before it reads its log level.
    """
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)
