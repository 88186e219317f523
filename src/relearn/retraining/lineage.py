"""Where a classifier came from: its images, parameters, code and environment; and which classifiers saw an image."""

import csv
import io
import json
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from relearn import paths
from relearn.dataset.manifest import SPLITS
from relearn.errors import AbsentFile, IntegrityError
from relearn.inference.classifier import RECORD
from relearn.params.yaml_file import parse_yaml
from relearn.repository.committed import read_committed
from relearn.repository.dvc_files import LockFile, read_committed_dvc_file
from relearn.repository.git import find_blob, find_commit
from relearn.repository.tags import TAG, list_tags, name_tag
from relearn.repository.tracked import hash_content
from relearn.retraining.release import CURRENT, find_current
from relearn.runtime.text import count_nouns
from relearn.storage.files import hash_bytes, hash_file, parse_json, read_json

log = logging.getLogger(__name__)

ENVIRONMENT = Path("requirements.lock")


class Lineage(NamedTuple):
    """All that determined a classifier.

    Attributes
    ----------
    tag, commit
        Where it is recorded; tag is None for a commit without one.
    images
        The split of each image, by its SHA-256.
    manifest_sha256, environment_sha256
        Of `data/manifest.csv` and of `requirements.lock`.
    params
        The content of `params.yaml`.
    corrections, corrections_sha256
        The rows of the file of corrections by action, and its hash; None if the revision has no such file.
    are_applied
        Whether the data of the revision is made with this file of corrections, as its `dvc.lock` says.
    record
        The content of `classifier.json`.
    metrics
        Those of the evaluation.
    """

    tag: str | None
    commit: str
    images: dict[str, str]
    manifest_sha256: str
    environment_sha256: str
    params: str
    corrections: dict[str, int]
    corrections_sha256: str | None
    are_applied: bool
    record: dict[str, Any]
    metrics: dict[str, Any]


def find_lineage(name: str | None = None) -> Lineage:
    """Return the lineage of a classifier that is given by a tag, a version, another revision of git, or its folder.

    By default it is the production model, or HEAD where there is no release, as in a fresh clone; the log says so.

    Raises
    ------
    IntegrityError
        There is no such revision, it has no classifier, or no tag has the classifier of the folder.
    """
    if name is None and find_current(paths.RELEASE) is None:
        log.info("%s: no release here; this is the classifier of HEAD, the last commit", paths.RELEASE)
        name = "HEAD"
    name = name or str(paths.RELEASE / CURRENT)
    if not (Path(name) / RECORD).is_file():
        return read_lineage(name_tag(name))
    sha256 = read_json(Path(name) / RECORD, ["record_sha256"])["record_sha256"]
    for tag in list_tags():
        if _read_object(tag, paths.CLASSIFIER / RECORD).get("record_sha256") == sha256:
            return read_lineage(tag)
    raise IntegrityError(
        where=name, wanted="the classifier of a tag classifier@vN.0.0", got=f"one of record_sha256 {sha256}"
    )


def read_lineage(revision: str) -> Lineage:
    """Read what a revision of git says of its classifier; large files come from DVC's cache or remote."""
    commit = find_commit(Path(), revision)
    if commit is None:
        known = ", ".join(list_tags()) or "none yet"
        raise IntegrityError(
            where=revision, wanted=f"a tag ({known}), another revision of git, or a classifier's folder", got="none"
        )
    manifest = read_committed(Path(), commit, paths.MANIFEST)
    params = decode_text(read_committed(Path(), commit, paths.PARAMS), f"{paths.PARAMS} of {revision}")
    return Lineage(
        revision if TAG.fullmatch(revision) else None,
        commit,
        parse_images(manifest),
        hash_bytes(manifest),
        hash_bytes(read_committed(Path(), commit, ENVIRONMENT)),
        params,
        *_count_corrections(commit, params, revision),
        _read_object(commit, paths.CLASSIFIER / RECORD, ("extractor", "head", "options", "record_sha256")),
        _read_object(commit, paths.EVALUATION_METRICS, ("accuracy_score", "n_images")),
    )


def _count_corrections(commit: str, params: str, revision: str) -> tuple[dict[str, int], str | None, bool]:
    """Return the rows by action of the corrections that the parameters name, the file's hash, and whether it was used.

    The hash is None if there is no such file.
    """
    blocks = parse_yaml(params.encode(), f"{paths.PARAMS} of {revision}")
    block = blocks.get("restructure") if isinstance(blocks, dict) else None
    if not isinstance(block, dict) or not isinstance(path := block.get("corrections"), str):
        return {}, None, True  # older than corrections are
    try:
        content = read_committed(Path(), commit, Path(path))
    except AbsentFile:
        if find_blob(Path(), commit, f"./{path}.dvc"):
            raise  # the revision has the file, but DVC's cache and remote do not
        return {}, None, True
    rows = csv.DictReader(io.StringIO(decode_text(content, f"{path} of {revision}")))
    counts = Counter(str(row.get("action")) for row in rows)
    return counts, hash_bytes(content), _is_input(commit, path, content)


def _is_input(commit: str, path: str, content: bytes) -> bool:
    """Return whether `dvc.lock` of a commit has these bytes as an input of a stage, or does not name the path."""
    if find_blob(Path(), commit, "./dvc.lock") is None:
        return True
    stages = read_committed_dvc_file(Path(), commit, "./dvc.lock", LockFile).stages or {}
    used = {dep.md5 for stage in stages.values() for dep in stage.deps or () if dep.path == path}
    return not used or hash_content(io.BytesIO(content)) in used


def _read_object(revision: str, path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    return parse_json(read_committed(Path(), revision, path), f"{path} of {revision}", keys)


def decode_text(content: bytes, name: str) -> str:
    """Return the text of a file that is called `name` in errors.

    Raises
    ------
    IntegrityError
        It is not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(
            where=name, wanted="text in UTF-8", got=f"byte {error.start + 1:,}: {error.reason}"
        ) from None


def parse_images(manifest: bytes) -> dict[str, str]:
    """Return the split of each image of a manifest, by its SHA-256; of several splits, the one that was learned from.

    Raises
    ------
    IntegrityError
        It is no manifest.
    """
    rows = list(csv.DictReader(io.StringIO(manifest.decode(errors="replace"))))
    if not rows or not {"sha256", "split"} <= rows[0].keys():
        raise IntegrityError(
            where=paths.MANIFEST, wanted="rows with sha256 and split", got="none", advice="run `dvc repro`"
        )
    return {row["sha256"]: row["split"] for split in reversed(SPLITS) for row in rows if row["split"] == split}


def find_image_hash(image: str) -> str:
    """Return the SHA-256 of an image, which is given by its file or by the hash itself.

    Raises
    ------
    IntegrityError
        It is neither a regular file nor a whole hash.
    """
    try:
        status = os.stat(image)
    except (OSError, ValueError) as error:  # ValueError: a NUL
        if re.fullmatch("[0-9a-fA-F]{64}", image):
            return image.lower()
        got = "no such file" if isinstance(error, FileNotFoundError | ValueError) else error.strerror
    else:
        if stat.S_ISREG(status.st_mode):
            return hash_file(Path(image))
        got = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
    raise IntegrityError(
        where="--image",
        wanted="the file of an image or its whole SHA-256 (64 hexadecimal digits)",
        got=f"{image!r}: {got}",
    )


def find_image_uses(sha256: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return which classifiers had an image in their data, and for which of them that is unknown.

    Returns
    -------
    Tags with the split of the image in each, the newest first; and one line per tag whose manifest is missing.

    Raises
    ------
    IntegrityError
        There is no tag of a classifier.
    """
    found, unknown = [], []
    tags = list_tags()
    if not tags:
        raise IntegrityError(
            wanted="a tag classifier@vN.0.0",
            got="none: nothing was promoted here, or `git fetch --tags` brings them",
        )
    for tag in tags:
        try:
            split = parse_images(read_committed(Path(), tag, paths.MANIFEST)).get(sha256)
        except IntegrityError as error:
            unknown.append(f"{tag}: its images are unknown: {error}")
        else:
            found += [(tag, split)] if split else []
    return found, unknown


def check_all_known(unknown: list[str]) -> None:
    """Raise `IntegrityError` if the images of a classifier are unknown, because it may have seen any."""
    if unknown:
        more = f" (and {len(unknown) - 1:,} more)" if unknown[1:] else ""
        raise IntegrityError(unknown[0] + more, advice="`dvc fetch --all-tags` brings what DVC's remote has")


def describe_lineage(lineage: Lineage) -> list[str]:
    """Return a lineage in lines."""
    counts = Counter(lineage.images.values())
    extractor = lineage.record["extractor"]
    return [
        f"{lineage.tag or 'no tag'}, commit {lineage.commit}",
        f"images       {len(lineage.images):,} ({', '.join(f'{split} {counts[split]:,}' for split in SPLITS)}), "
        f"{paths.MANIFEST} sha256 {lineage.manifest_sha256}",
        f"corrections  {_describe_corrections(lineage)}",
        f"network      {extractor['network']}, weights {extractor['weights']}, "
        f"network_sha256 {extractor['network_sha256']}",
        f"head         {lineage.record['head']} {json.dumps(lineage.record['options'])}, "
        f"record_sha256 {lineage.record['record_sha256']}",
        f"environment  keras {extractor['keras']}, {extractor['backend']}, Pillow {extractor['pillow']}, "
        f"{ENVIRONMENT} sha256 {lineage.environment_sha256}",
        f"evaluation   accuracy {lineage.metrics['accuracy_score']:.4f} of "
        f"{count_nouns(lineage.metrics['n_images'], 'image')}"
        + (f", out of {lineage.metrics['n_folds']} folds" if "n_folds" in lineage.metrics else ""),
    ]


def _describe_corrections(lineage: Lineage) -> str:
    if lineage.corrections_sha256 is None:
        return "none: the revision has no file of them"
    counts = ", ".join(f"{action} {n:,}" for action, n in sorted(lineage.corrections.items()))
    return (
        f"{sum(lineage.corrections.values()):,}{f' ({counts})' if counts else ''}, sha256 {lineage.corrections_sha256}"
        + ("" if lineage.are_applied else "; NOT applied: dvc.lock has another file, so run `dvc repro` and commit it")
    )
