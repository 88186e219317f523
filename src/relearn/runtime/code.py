"""The code that decides a result, by hash: part of the key of what is kept for later."""

from functools import cache
from pathlib import Path

from relearn.storage.files import hash_bytes, hash_file

ROOT = Path(__file__).parent.parent


@cache
def hash_code(*packages: str) -> dict[str, str]:
    """Return the SHA-256 of packages of relearn by name: of their modules, all of them, whichever is imported.

    It is computed once a process, so that it is the code that this process imported.
    """
    return {package: _hash_package(ROOT / package) for package in packages}


def _hash_package(folder: Path) -> str:
    modules = sorted(folder.glob("*.py"))
    return hash_bytes("".join(f"{path.name} {hash_file(path)}\n" for path in modules).encode())
