"""Data for the gate: 18 good images of two classes, and changes to them."""

import numpy as np
import pandas as pd

from conftest import ROOT, draw_image
from relearn.dataset.manifest import SPLITS, Exclusion, ManifestRow
from relearn.gates.reference import Reference
from relearn.gates.tables import Data
from relearn.images.fingerprints import HASH_BYTES, N_HASHES, compute_fingerprint
from relearn.params.data import ValidateParams
from relearn.params.pipeline import read_params


def make_params(**rules):
    """The repository's rules with small changes: `make_params(min_images={"min": 3})`."""
    block = read_params(ROOT / "params.yaml").validate_.model_dump()
    block["min_images"]["min"], block["modes"]["allowed"] = 2, ["RGB", "L"]
    block["suite"] = str(ROOT / block["suite"])
    for name, change in rules.items():
        block[name] |= change
    return ValidateParams.model_validate(block)


def make_rows():
    return [
        ManifestRow(f"{split}/{label}/{n}.png", split, label, f"{i:03}{j}{n}" + "0" * 59, 9, 100, 100, "RGB", "PNG")
        for i, split in enumerate(SPLITS)
        for j, label in enumerate(("cat", "dog"))
        for n in range(3)
    ]


ROWS = make_rows()


def make_data(rows=None, *, contrast=None, hashes=None, n_files=None, excluded=(), before=None, is_accepted=False):
    rows = make_rows() if rows is None else rows
    manifest = pd.DataFrame(rows, columns=list(ManifestRow._fields)).astype("str")
    manifest = manifest.mask(manifest == "")
    details = pd.DataFrame({"path": manifest["path"], "source_path": manifest["path"], "contrast": "50.0"})
    for row, value in (contrast or {}).items():
        details.loc[row, "contrast"] = str(value)
    table = np.zeros((len(rows), N_HASHES, HASH_BYTES), np.uint8)
    for row, seed in (hashes or {}).items():
        rgb = draw_image(seed, (64, 64))
        table[row] = np.frombuffer(compute_fingerprint(rgb).hashes, np.uint8).reshape(table.shape[1:])
    excluded = [Exclusion(*exclusion) for exclusion in excluded]
    n_files = len(rows) + len(excluded) if n_files is None else n_files
    return Data(manifest, details, table, excluded, "source", n_files, before, is_accepted)


def change(row, **cells):
    """The rows with other cells in one of them."""
    return [old._replace(**cells) if number == row else old for number, old in enumerate(ROWS)]


def without(*classes):
    return [row for row in ROWS if f"{row.split}/{row.label}" not in classes]


BEFORE = Reference("c" * 40, {"cat": 9, "dog": 9})
