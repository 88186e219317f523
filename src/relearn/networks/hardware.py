"""The parts of a machine that decide the last bits of a feature, found without importing a network's libraries."""

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import NamedTuple

from relearn.errors import NetworkError
from relearn.runtime.backend import HOW_TO_INSTALL, SETTINGS

# Instruction sets by which oneDNN and the backends choose their code.
_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)

# Variables with these prefixes may choose other code, unless they have one of the suffixes.
_SWITCHES = (
    "DNNL_",
    "JAX_",
    "NVIDIA_TF32",
    "ONEDNN_",
    "TF_ENABLE_ONEDNN",
    "TF_SET_ONEDNN",
    "TF_XLA",
    "TORCH_ALLOW_TF32",
    "XLA_FLAGS",
)
_HARMLESS = ("_VERBOSE", "_VERBOSE_TIMESTAMP", "_JIT_DUMP", "_JIT_PROFILE", "_CACHE_DIR")

BACKENDS = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "jax": ("jax",), "torch": ("torch",)}


@functools.cache
def read_instructions() -> tuple[str, ...]:
    """Return the processor's instruction sets that matter; none if Linux does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith(("flags", "Features"))), set())
    return tuple(name for name in _INSTRUCTIONS if name in flags)


class GPU(NamedTuple):
    """A graphics processor and the version of its CUDA instructions."""

    name: str
    compute_capability: float


@functools.cache
def list_gpus() -> tuple[GPU, ...]:
    """Return the GPUs that NVIDIA's driver knows and this process may use, if keras' backend can use them."""
    if not _backend_uses_gpus():
        return ()
    try:
        command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ()
    cells = [line.rsplit(",", 1) for line in answer.stdout.splitlines() if "," in line]
    gpus = [GPU(name.strip(), float(capability)) for name, capability in cells]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(gpus)
    numbers = [number.strip() for number in visible.split(",")]
    if all(number.isdecimal() for number in numbers):
        return tuple(gpus[int(number)] for number in numbers if int(number) < len(gpus))
    return () if visible in ("", "-1") else tuple(gpus)  # UUIDs


def _backend_uses_gpus() -> bool:
    """Return whether the installed packages of keras' backend were built for GPUs."""
    name, version = find_backend()
    if name == "torch":
        return "+cpu" not in version
    installed = {(distribution.name or "").lower() for distribution in importlib.metadata.distributions()}
    if name == "jax":
        return any(distribution.startswith("jax-cuda") for distribution in installed)
    return "tensorflow" in installed


def describe_hardware() -> dict[str, object]:
    """Return the parts of this machine and its settings that may decide the last bits of a feature."""
    return {
        "machine": platform.machine(),
        "instructions": list(read_instructions()),
        "gpus": [gpu.name for gpu in list_gpus()],
        "switches": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(_SWITCHES) and not name.endswith(_HARMLESS) and SETTINGS.get(name) != value
        },
    }


def choose_precision(wanted: str) -> str:
    """Return float32 or bfloat16; `auto` is bfloat16 if the hardware multiplies matrices in it.

    That is a processor with AMX or AVX512-BF16, or a GPU of at least compute capability 8.0 (Ampere).
    """
    if wanted != "auto":
        return wanted
    if gpus := list_gpus():
        return "bfloat16" if min(gpu.compute_capability for gpu in gpus) >= 8 else "float32"
    return "bfloat16" if {"amx_bf16", "avx512_bf16", "bf16"} & set(read_instructions()) else "float32"


def find_backend() -> tuple[str, str]:
    """Return the name and version of the backend that keras will use.

    Raises
    ------
    NetworkError
        It is not installed, or keras does not know it.
    """
    name = os.environ.get("KERAS_BACKEND") or _read_keras_config().get("backend", "tensorflow")
    if name not in BACKENDS:
        raise NetworkError(where="KERAS_BACKEND", wanted=f"one of {', '.join(BACKENDS)}", got=repr(name))
    for distribution in BACKENDS[name]:
        try:
            return name, importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise NetworkError(f"keras' backend {name} is not installed", advice=HOW_TO_INSTALL)


def _read_keras_config() -> dict[str, str]:
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    try:
        config = json.loads((home / "keras.json").read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
