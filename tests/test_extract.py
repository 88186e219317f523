from pathlib import Path

import numpy as np
import pytest

from conftest import draw_image, encode_image, write_images
from relearn import extract, paths
from relearn.errors import IntegrityError, ValidationFailed
from relearn.files import hash_bytes, hash_file, write_json
from relearn.manifest import ManifestRow, write_manifest


class Upright:
    """Stands for an extractor: the image as it is."""

    def prepare_image(self, rgb):
        return np.asarray(rgb)


def write_gate(passed=True, sha256=None):
    write_manifest(paths.MANIFEST, [])
    write_json(paths.VALIDATION_REPORT, {"passed": passed, "manifest_sha256": sha256 or hash_file(paths.MANIFEST)})


def test_gate_opens_for_the_manifest_that_passed(workspace):
    write_gate()
    extract.check_gate()


def test_gate_stays_shut(workspace):
    with pytest.raises(IntegrityError, match=r"reports/validation\.json: no such file; run `dvc repro`"):
        extract.check_gate()
    write_gate(passed=False)
    with pytest.raises(ValidationFailed, match=r"the data did not pass: see reports/validation\.json"):
        extract.check_gate()
    write_gate(sha256="0" * 64)
    with pytest.raises(ValidationFailed, match=r"is about another data/manifest\.csv than the one here"):
        extract.check_gate()


def test_image_is_checked_before_it_is_decoded(workspace):
    content = encode_image(draw_image(1))
    row = ManifestRow("training/a/1.png", "training", "a", hash_bytes(content), len(content), 12, 10, "RGB", "PNG")
    with pytest.raises(IntegrityError, match=r"training/a/1\.png: cannot be read: No such file or directory; run"):
        extract.read_prepared(Upright(), row)
    write_images(paths.DATASET, [row.path], first_seed=2)
    with pytest.raises(IntegrityError, match=rf"1\.png: wanted sha256 {row.sha256} \(data/manifest\.csv\), got other"):
        extract.read_prepared(Upright(), row)
    (paths.DATASET / row.path).write_bytes(content)
    assert np.array_equal(extract.read_prepared(Upright(), row), draw_image(1))


def test_listed_file_that_is_no_image(workspace):
    Path(paths.DATASET).mkdir(parents=True)
    (paths.DATASET / "x").write_bytes(b"text")
    row = ManifestRow("x", "training", "a", hash_bytes(b"text"), 4, 1, 1, "L", "PNG")
    with pytest.raises(IntegrityError, match=r"x: not an image .*, though data/manifest\.csv lists it"):
        extract.read_prepared(Upright(), row)
