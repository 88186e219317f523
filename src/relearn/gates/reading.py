"""What `restructure` wrote, read for the gate."""

from pathlib import Path

import pandas as pd

from relearn import paths
from relearn.dataset.assignments import read_groups
from relearn.dataset.corrections import Corrected
from relearn.dataset.manifest import TABLES, Exclusion, hash_tables
from relearn.errors import IntegrityError
from relearn.gates.reference import find_reference
from relearn.gates.tables import Data, check_tables
from relearn.images.fingerprints import read_hashes
from relearn.repository.history import iterate_committed
from relearn.storage.files import hash_file, read_csv, read_json

AGAIN = "run `dvc repro --force restructure`"


def read_data() -> Data:
    """Read what `restructure` wrote, and the last committed data to compare it with.

    Raises
    ------
    IntegrityError
        A file is missing or damaged, or two of them are not about the same images.
    """
    manifest, details, hashes = read_table(paths.MANIFEST), read_table(paths.SIGHTINGS), read_hashes(paths.HASHES)
    check_tables(manifest, details, hashes)
    record = read_json(paths.SOURCE, ("source", "n_files", "lost_classes", *TABLES))
    source, n_files, lost = record["source"], record["n_files"], record["lost_classes"]
    is_counted = isinstance(lost, dict) and all(type(n) is int for n in [n_files, *lost.values()])
    if not isinstance(source, str) or not is_counted:
        raise IntegrityError(
            where=paths.SOURCE,
            wanted="source as text, n_files as a whole number, and lost_classes as a number for each class",
            got=f"{source!r}, {n_files!r} and {lost!r}",
            advice=AGAIN,
        )
    excluded = [Exclusion(*row) for row in read_csv(paths.EXCLUDED, Exclusion._fields)]
    corrected = [Corrected(*row) for row in read_csv(paths.CORRECTED, Corrected._fields)]
    for key, found in hash_tables().items():
        if found != record[key]:
            raise IntegrityError(
                where=TABLES[key],
                wanted=f"sha256 {record[key]} ({paths.SOURCE})",
                got=f"{found}, because it was changed by hand",
                advice=AGAIN,
            )
    committed = iterate_committed(paths.VALIDATION_REPORT)
    before, is_accepted = find_reference(committed, hash_file(paths.MANIFEST), source)
    images = list(manifest["sha256"].fillna("")) if "sha256" in manifest else []
    groups = read_groups(paths.SPLITS, images)
    return Data(manifest, details, hashes, excluded, source, n_files, before, is_accepted, groups, lost, corrected)


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, every cell as it stands; an empty one is missing."""
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise IntegrityError("no such file", where=path, advice="run `dvc repro restructure`") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise IntegrityError(where=path, wanted="CSV", got=error, advice=AGAIN) from None
