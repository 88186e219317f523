"""What of the machine decides the last bits of a feature, told without importing a network's libraries."""

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

from relearn.errors import NetworkError

# oneDNN and the backends choose their code by these.
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

# Variables that choose other code, or another way to compute.
_SWITCHES = (
    "TF_ENABLE_ONEDNN_OPTS",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "XLA_FLAGS",
    "NVIDIA_TF32_OVERRIDE",
)

BACKENDS = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "jax": ("jax",), "torch": ("torch",)}


@functools.cache
def read_instructions() -> tuple[str, ...]:
    """Return those of the processor's instruction sets that matter; none where Linux does not tell them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ()
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith(("flags", "Features"))), set())
    return tuple(name for name in _INSTRUCTIONS if name in flags)


@functools.cache
def list_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that NVIDIA's driver knows and this process may use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ()
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def describe_hardware() -> dict[str, object]:
    """Return what of this machine and its settings a feature's last bits may depend on."""
    return {
        "machine": platform.machine(),
        "instructions": list(read_instructions()),
        "gpus": list(list_gpus()),
        "switches": {name: os.environ[name] for name in _SWITCHES if name in os.environ},
    }


def choose_precision(wanted: str) -> str:
    """Return float32 or bfloat16; `auto` is bfloat16 where the hardware multiplies matrices in it.

    That is AMX or AVX512-BF16 of a processor, and a GPU, as there is none left without it that TensorFlow runs on.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if list_gpus() or {"amx_bf16", "avx512_bf16", "bf16"} & set(read_instructions()) else "float32"


def find_backend() -> tuple[str, str]:
    """Return the name and version of keras' backend, found as keras finds it.

    Raises
    ------
    NetworkError
        It is not installed, or keras has no such backend.
    """
    name = os.environ.get("KERAS_BACKEND") or _read_keras_config().get("backend", "tensorflow")
    if name not in BACKENDS:
        raise NetworkError(f"KERAS_BACKEND: wanted one of {', '.join(BACKENDS)}, got {name!r}")
    for distribution in BACKENDS[name]:
        try:
            return name, importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise NetworkError(
        f"keras' backend {name} is not installed; `make setup` installs TensorFlow, another one is to be installed by "
        "hand and named in KERAS_BACKEND"
    )


def _read_keras_config() -> dict[str, str]:
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    try:
        config = json.loads((home / "keras.json").read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
