import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from relearn.errors import NetworkError
from relearn.networks import hardware
from relearn.networks.hardware import (
    GPU,
    choose_precision,
    describe_hardware,
    find_backend,
    list_gpus,
    read_instructions,
)


@pytest.fixture(autouse=True)
def fresh():
    yield
    for function in (read_instructions, list_gpus):
        function.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine: `machine(["avx2"], ["H100"])`."""

    def pretend(instructions, gpus=()):
        monkeypatch.setattr(hardware, "read_instructions", lambda: tuple(instructions))
        monkeypatch.setattr(hardware, "list_gpus", lambda: tuple(GPU("x", capability) for capability in gpus))

    return pretend


@pytest.mark.parametrize(
    ("instructions", "gpus", "expected"),
    [
        (["avx2", "avx512f"], [], "float32"),
        (["avx512_bf16"], [], "bfloat16"),
        (["amx_bf16"], [], "bfloat16"),
        (["avx2"], [9.0], "bfloat16"),
        (["amx_bf16"], [9.0, 7.5], "float32"),
    ],
)
def test_auto_is_what_the_hardware_is_good_at(machine, instructions, gpus, expected):
    machine(instructions, gpus)
    assert choose_precision("auto") == expected
    assert choose_precision("float32") == "float32"
    assert choose_precision("bfloat16") == "bfloat16"


def test_instructions_are_read_from_linux(monkeypatch, tmp_path):
    text = "processor : 0\nflags : fpu avx2 avx512f amx_bf16x\nflags : none\n"
    monkeypatch.setattr(hardware.Path, "read_text", lambda path: text)
    assert read_instructions() == ("avx2", "avx512f")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]),
        ("1", ["NVIDIA L4"]),
        ("1,0", ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]),
        ("GPU-1a2b", ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_told_by_the_driver(monkeypatch, tmp_path, visible, expected):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho NVIDIA H100 80GB HBM3, 9.0\necho NVIDIA L4, 8.9\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(hardware, "_backend_uses_gpus", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in list_gpus()] == expected


@pytest.mark.parametrize(
    ("backend", "installed", "expected"),
    [
        (("tensorflow", "2.21.0"), ["tensorflow-cpu"], False),
        (("tensorflow", "2.21.0"), ["tensorflow"], True),
        (("jax", "0.10"), ["jax", "jaxlib"], False),
        (("jax", "0.10"), ["jax", "jax-cuda13-plugin"], True),
        (("torch", "2.15.0+cpu"), ["torch"], False),
        (("torch", "2.15.0"), ["torch"], True),
    ],
)
def test_gpu_counts_where_the_backend_can_use_it(monkeypatch, backend, installed, expected):
    monkeypatch.setattr(hardware, "find_backend", lambda: backend)
    distributions = [SimpleNamespace(name=name) for name in installed]
    monkeypatch.setattr(hardware.importlib.metadata, "distributions", lambda: distributions)
    assert hardware._backend_uses_gpus() is expected


def test_switches_are_part_of_the_hardware(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    assert "TF_ENABLE_ONEDNN_OPTS" not in describe_hardware()["switches"]
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "BF16")
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")
    assert describe_hardware()["switches"]["TF_ENABLE_ONEDNN_OPTS"] == "0"
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # as importing keras sets it
    assert "TF_ENABLE_ONEDNN_OPTS" not in describe_hardware()["switches"]
    assert describe_hardware()["switches"]["DNNL_DEFAULT_FPMATH_MODE"] == "BF16"
    assert "ONEDNN_VERBOSE" not in describe_hardware()["switches"]
    json.dumps(describe_hardware())


def test_backend_is_the_one_that_keras_takes(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert find_backend()[0] == "tensorflow"
    Path(tmp_path, "keras.json").write_text(json.dumps({"backend": "theano"}))
    with pytest.raises(NetworkError, match="KERAS_BACKEND: wanted one of tensorflow, jax, torch, got 'theano'"):
        find_backend()
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    name, version = find_backend()
    assert name == "tensorflow"
    assert version[0].isdigit()


def test_backend_that_is_not_installed(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(hardware, "BACKENDS", {"jax": ("no-such-distribution",)})
    with pytest.raises(NetworkError, match="keras' backend jax is not installed; in a clone, `make setup` or"):
        find_backend()
