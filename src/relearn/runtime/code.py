"""The hash of the code that decides a result: part of the key of stored results."""

from functools import cache
from pathlib import Path

from relearn.storage.files import hash_bytes, hash_file

ROOT = Path(__file__).parent.parent


@cache
def hash_code(*packages: str) -> dict[str, str]:
    """Return the SHA-256 of all modules in each of these packages of relearn, by name.

    It is computed once per process, so that it is the hash of the imported code.
    """
    return {package: _hash_package(ROOT / package) for package in packages}


def _hash_package(folder: Path) -> str:
    modules = sorted(folder.glob("*.py"))
    return hash_bytes("".join(f"{path.name} {hash_file(path)}\n" for path in modules).encode())
