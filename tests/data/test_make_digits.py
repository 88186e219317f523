import subprocess
import sys

import pytest


@pytest.mark.slow
def test_sample_is_written_again_byte_for_byte(root, tmp_path):
    path = tmp_path / "digits.zip"
    subprocess.run([sys.executable, root / "data" / "make_digits.py", path], check=True)
    assert path.read_bytes() == (root / "data" / "raw" / "digits.zip").read_bytes()
