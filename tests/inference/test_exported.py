"""Exported models: read, checked, asked."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from inference.exports import write_export
from relearn.errors import ImageError, IntegrityError
from relearn.inference.exported import ExportedModel


def encode(color, size=(20, 12)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    write_export(tmp_path / "model")
    return tmp_path / "model"


def test_images_get_the_probabilities_of_the_head(folder):
    model = ExportedModel(folder)
    images = [model.read_image(encode(color)) for color in ("red", "blue")]
    wanted = 1 / (1 + np.exp([-4.0, 4.0]))
    np.testing.assert_allclose(model.predict_probabilities(images)[:, 1], wanted, atol=1e-6)


ASK_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from relearn.inference.exported import ExportedModel

model = ExportedModel(Path(sys.argv[1]), 1)
images = np.zeros((16, 1024, 1024, 3), np.uint8)  # 200 MB as float32
copies = [np.stack(images)]
status = dict(line.split(":") for line in open("/proc/self/status"))
n_bytes = 1024 * int(status["VmSize"].split()[0]) + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
del copies
try:
    model.predict_probabilities(images)
except MemoryError:
    print("too little memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit of the address space")
def test_lack_of_memory_is_no_fault_of_the_model(tmp_path):
    write_export(tmp_path / "model", size_px=1024)
    command = [sys.executable, "-c", ASK_WITH_LITTLE_MEMORY, str(tmp_path / "model")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.stdout, answer.returncode) == ("too little memory\n", 0), answer.stderr


def test_files_are_answered_beside_those_that_cannot_be_read(folder, tmp_path):
    (tmp_path / "red.png").write_bytes(encode("red"))
    (tmp_path / "none.png").write_bytes(b"none")
    answers = ExportedModel(folder).predict_files([str(tmp_path / "red.png"), str(tmp_path / "none.png")])
    assert [answer.label for answer in answers.answers] == ["red"]
    assert [path for path, _ in answers.failures] == [str(tmp_path / "none.png")]


def test_what_is_no_image_is_refused(folder):
    with pytest.raises(ImageError):
        ExportedModel(folder).read_image(b"none")


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_changed_byte_is_noticed(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(IntegrityError):
        ExportedModel(folder)
