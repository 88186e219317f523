"""Versions of the classifier as their tags record them, and as the release keeps them."""

import csv
import io
import logging
import shutil
from pathlib import Path

from relearn import paths
from relearn.dataset.manifest import Exclusion, SourceDetails, read_manifest
from relearn.errors import AbsentFile, IntegrityError
from relearn.inference.classifier import HEAD, RECORD
from relearn.inference.exported import FILES, MODEL, is_export, read_export_record
from relearn.repository.committed import read_committed
from relearn.repository.git import read_trailers
from relearn.repository.tags import name_tag
from relearn.retraining.lineage import decode_text, parse_images
from relearn.retraining.records import NONE
from relearn.retraining.release import IMAGES, IMAGES_HEADER, VERSIONS, keep_version, list_versions
from relearn.storage.files import hash_bytes, parse_json, read_csv

log = logging.getLogger(__name__)

PENDING_EXPORT = Path(".relearn/retrain/export")  # of the version that is promoted next


def bring_version(root: Path, version: str) -> None:
    """Bring a version into the release from DVC's cache or remote, unless it is there, with its export if one waits."""
    if version not in list_versions(root / paths.RELEASE):
        contents = read_version(root, version)
        exported = _read_export(root, version, contents[RECORD])
        keep_version(root / paths.RELEASE, contents | exported, version)
        if exported:
            shutil.rmtree(root / PENDING_EXPORT)


def _read_export(root: Path, version: str, classifier: bytes) -> dict[str, bytes]:
    """Return the files of the pending export if it is that of this version's classifier; none otherwise."""
    folder = root / PENDING_EXPORT
    if not is_export(folder):
        return {}
    try:
        record = read_export_record(folder)
        contents = {name: (folder / name).read_bytes() for name in FILES}
    except (IntegrityError, OSError) as error:
        log.warning("%s has no exported model: %s", version, error)
        return {}
    if hash_bytes(contents[MODEL]) != record.model_sha256:
        log.warning("%s has no exported model: %s is damaged", version, folder / MODEL)
        return {}
    exported = (record.version, record.classifier_sha256)
    return contents if exported == (version, parse_json(classifier, RECORD)["record_sha256"]) else {}


def check_version(root: Path, version: str) -> str | None:
    """Check a version of the release against its record; return why that is impossible, None if it was checked.

    Raises
    ------
    IntegrityError
        The release or DVC has something else than the record names.
    """
    try:
        contents = read_version(root, version)
    except AbsentFile as error:
        return f"{paths.RELEASE / VERSIONS / version} was not checked against its record: {error}"
    keep_version(root / paths.RELEASE, contents, version)
    return None


def read_version(root: Path, version: str) -> dict[str, bytes]:
    """Read the files of a version from its tag.

    Raises
    ------
    IntegrityError
        A file is missing, or is not the one that the record names.
    """
    tag = name_tag(version)
    contents = {name: read_committed(root, tag, paths.CLASSIFIER / name) for name in (HEAD, RECORD)}
    extractor = parse_json(contents[RECORD], f"{paths.CLASSIFIER / RECORD} of {tag}").get("extractor", {})
    if extractor.get("weights") == str(paths.NETWORK / paths.TUNED_WEIGHTS):
        name = paths.TUNED_WEIGHTS
        contents[name] = read_committed(root, tag, paths.CLASSIFIER / name)
    manifest = read_committed(root, tag, paths.MANIFEST)
    recorded, found = read_trailers(root, tag).get("Data-sha256", NONE), hash_bytes(manifest)
    if recorded not in (NONE, found):
        raise IntegrityError(
            where=f"{paths.MANIFEST} of {tag}", wanted=f"sha256 {recorded}, as is recorded there", got=found
        )
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(IMAGES_HEADER)
    writer.writerows(sorted(parse_images(manifest).items()))
    return contents | {IMAGES: table.getvalue().encode()}


def read_images(root: Path, version: str) -> dict[str, str]:
    """Return the split of each image of a version; nothing if it is not kept."""
    path = root / paths.RELEASE / VERSIONS / version / IMAGES
    return dict(read_csv(path, IMAGES_HEADER)) if path.exists() else {}


def read_excluded(root: Path, version: str) -> dict[str, str]:
    """Return why files of a version's source are not in its data, by path; nothing if no place has that list."""
    tag = name_tag(version)
    try:
        text = decode_text(read_committed(root, tag, paths.EXCLUDED), f"{paths.EXCLUDED} of {tag}")
    except AbsentFile:
        return {}
    return {row["path"]: row["reason"] for row in csv.DictReader(io.StringIO(text))}


def list_gone(root: Path, worktree: Path, version: str) -> list[Exclusion]:
    """Return the images of a version that are not in the data of a worktree, by path in the source, and why.

    Raises
    ------
    IntegrityError
        The version or the data cannot be read.
    """
    manifest = read_manifest(worktree / paths.MANIFEST)
    gone = read_images(root, version).keys() - {row.sha256 for row in manifest}
    if not gone:
        return []
    excluded = dict(read_csv(worktree / paths.EXCLUDED, Exclusion._fields))
    now = {row.path: row.sha256 for row in manifest}
    by_source = {source: now[path] for path, source, _ in read_csv(worktree / paths.SIGHTINGS, SourceDetails._fields)}
    try:
        sources = _list_source_paths(root, version)
    except AbsentFile as error:
        return [Exclusion(sha256, f"no longer in the data; its path is not known: {error}") for sha256 in sorted(gone)]
    found = []
    for sha256, path in sources:
        if sha256 in gone:
            other = f"other bytes have its name: sha256 {by_source[path]}" if path in by_source else ""
            found.append(Exclusion(path, excluded.get(path) or other or "no longer in the source"))
    return sorted(found)


def _list_source_paths(root: Path, version: str) -> list[tuple[str, str]]:
    """Return the SHA-256 and the path in the source of each image of a version."""
    tag = name_tag(version)
    tables = [
        list(csv.DictReader(io.StringIO(decode_text(read_committed(root, tag, path), f"{path} of {tag}"))))
        for path in (paths.MANIFEST, paths.SIGHTINGS)
    ]
    hashes = {row["path"]: row["sha256"] for row in tables[0]}
    return [(hashes[row["path"]], row["source_path"]) for row in tables[1]]
