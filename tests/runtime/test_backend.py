import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from relearn.errors import NetworkError
from relearn.runtime import backend
from relearn.runtime.backend import import_keras, use_keras

# As TensorFlow tells that a library of its own could not be loaded.
SHORTAGE = """Traceback (most recent call last):
  File "x.py", line 1
ImportError: libtensorflow_cc.so.2: failed to map segment from shared object


Failed to load the native TensorFlow runtime.
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SHORTAGE, r"libtensorflow_cc\.so\.2: failed to map segment .*; there is too little memory: raise the limits"),
        ("No module named 'x'", r"No module named 'x'; in a clone, `make setup` or `pip .*` installs"),
    ],
)
def test_keras_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "keras.py").write_text(f"raise ImportError({text!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(
        NetworkError, match=rf"^keras cannot be imported with the backend tensorflow: {message}"
    ) as caught:
        import_keras("float32")
    assert "\n" not in str(caught.value)


def test_tensorflow_that_was_imported_before_is_reported(monkeypatch, caplog):
    monkeypatch.setattr(backend, "SETTINGS", {"RELEARN_TEST_SETTING": "1"})
    monkeypatch.setenv("RELEARN_TEST_SETTING", "0")
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "keras", MagicMock())
    import_keras("float32")
    assert caplog.messages == []  # the user chose
    monkeypatch.delenv("RELEARN_TEST_SETTING")
    import_keras("float32")
    (message,) = caplog.messages
    assert message.startswith("TensorFlow was imported before relearn set it up")
    assert message.endswith("or set RELEARN_TEST_SETTING=1")
    monkeypatch.delenv("RELEARN_TEST_SETTING")  # which `import_keras` set


@pytest.mark.slow
def test_the_settings_of_the_caller_stay():
    import keras

    config = keras.config
    ours = config.floatx(), config.dtype_policy().name, config.image_data_format()
    theirs = "float64", "mixed_float16", "channels_first"
    config.set_floatx(theirs[0])
    config.set_dtype_policy(theirs[1])
    config.set_image_data_format(theirs[2])
    try:
        with pytest.raises(RuntimeError), use_keras("bfloat16"):
            assert (config.floatx(), config.dtype_policy().name) == ("float32", "mixed_bfloat16")
            assert config.image_data_format() == "channels_last"
            raise RuntimeError
        assert (config.floatx(), config.dtype_policy().name, config.image_data_format()) == theirs
    finally:
        config.set_floatx(ours[0])
        config.set_dtype_policy(ours[1])
        config.set_image_data_format(ours[2])
