import sys

import pytest

from relearn.errors import NetworkError
from relearn.runtime.backend import import_keras

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
        ("No module named 'x'", r"No module named 'x'; `make setup` installs TensorFlow"),
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
