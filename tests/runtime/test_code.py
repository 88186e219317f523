import shutil

import pytest

from relearn.runtime import code
from relearn.runtime.code import hash_code


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A copy of two packages of relearn, which are hashed again."""
    for name in ("images", "networks"):
        shutil.copytree(code.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path)
    hash_code.cache_clear()
    yield tmp_path
    hash_code.cache_clear()


def test_a_package_is_hashed_by_the_names_and_bytes_of_its_modules(packages):
    before = hash_code("images", "networks")
    for change in (
        lambda: (packages / "images" / "png.py").write_text("#"),
        lambda: (packages / "images" / "png.py").rename(packages / "images" / "apng.py"),
        (packages / "images" / "new.py").touch,
    ):
        hash_code.cache_clear()
        change()
        after = hash_code("images", "networks")
        assert after["images"] != before["images"]
        assert after["networks"] == before["networks"]
        before = after


def test_the_hash_is_that_of_the_code_which_was_imported(packages):
    before = hash_code("images")
    (packages / "images" / "png.py").write_text("")
    (packages / "images" / "__pycache__").mkdir()
    assert hash_code("images") == before
