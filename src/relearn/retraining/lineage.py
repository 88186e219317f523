"""Where a classifier came from: its images, parameters, code and environment; and which classifiers saw an image."""

import csv
import io
import json
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
from relearn.repository.git import find_commit, run_git
from relearn.repository.tracked import TEXT_HASH, describe_damage, find_object, hash_as_dvc, hash_content
from relearn.storage.files import hash_bytes, hash_file, parse_json, read_json

# The tags that the model registry of DVC reads: https://dvc.org/doc/gto/user-guide
TAG = re.compile(r"classifier@(v[1-9][0-9]{0,8})\.0\.0")
VERSION = re.compile(r"(?:classifier@)?v?([1-9][0-9]{0,8})(?:\.0\.0)?")
ENVIRONMENT = Path("requirements.lock")


class Lineage(NamedTuple):
    """All that decided a classifier.

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
    record: dict[str, Any]
    metrics: dict[str, Any]


def name_tag(version: str) -> str:
    """Return the tag of a version, which may be given as v3, 3, classifier@v3 or the tag itself."""
    match = VERSION.fullmatch(version)
    return f"classifier@v{match[1]}.0.0" if match else version


def list_tags(root: Path = Path()) -> list[str]:
    """Return the tags of promoted classifiers, the newest first."""
    tags = [tag for tag in run_git(root, "tag", "--list").split() if TAG.fullmatch(tag)]
    return sorted(tags, key=lambda tag: int(name_version(tag)[1:]), reverse=True)


def name_version(tag: str) -> str:
    """Return the version that a tag names, such as v3."""
    match = TAG.fullmatch(tag)
    assert match
    return match[1]


def find_lineage(name: str) -> Lineage:
    """Return where a classifier came from, told by a tag, its version, another revision of git, or its folder.

    Raises
    ------
    IntegrityError
        There is no such revision, it has no classifier, or no tag has the classifier of the folder.
    """
    if not (Path(name) / RECORD).is_file():
        return read_lineage(name_tag(name))
    sha256 = read_json(Path(name) / RECORD, ["record_sha256"])["record_sha256"]
    for tag in list_tags():
        if _read_object(tag, paths.CLASSIFIER / RECORD).get("record_sha256") == sha256:
            return read_lineage(tag)
    raise IntegrityError(f"{name}: wanted the classifier of a tag classifier@vN.0.0, got one of record_sha256 {sha256}")


def read_lineage(revision: str) -> Lineage:
    """Read what a revision of git says of its classifier; large files come from DVC's cache or remote."""
    commit = find_commit(Path(), revision)
    if commit is None:
        known = ", ".join(list_tags()) or "none yet"
        raise IntegrityError(f"{revision}: wanted a tag ({known}), another revision of git, or a classifier's folder")
    manifest = read_committed(Path(), commit, paths.MANIFEST)
    return Lineage(
        revision if TAG.fullmatch(revision) else None,
        commit,
        parse_images(manifest),
        hash_bytes(manifest),
        hash_bytes(read_committed(Path(), commit, ENVIRONMENT)),
        decode_text(read_committed(Path(), commit, paths.PARAMS), f"{paths.PARAMS} of {revision}"),
        _read_object(commit, paths.CLASSIFIER / RECORD, ("extractor", "head", "options", "record_sha256")),
        _read_object(commit, paths.EVALUATION_METRICS, ("accuracy_score", "n_images")),
    )


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
        raise IntegrityError(f"{name}: wanted text in UTF-8, got byte {error.start + 1:,}: {error.reason}") from None


def parse_images(manifest: bytes) -> dict[str, str]:
    """Return the split of each image of a manifest, by its SHA-256; of several, the one that it was learned from.

    Raises
    ------
    IntegrityError
        It is no manifest.
    """
    rows = list(csv.DictReader(io.StringIO(manifest.decode(errors="replace"))))
    if not rows or not {"sha256", "split"} <= rows[0].keys():
        raise IntegrityError(f"{paths.MANIFEST}: wanted rows with sha256 and split, got none; run `dvc repro`")
    return {row["sha256"]: row["split"] for split in reversed(SPLITS) for row in rows if row["split"] == split}


def find_image_hash(image: str) -> str:
    """Return the SHA-256 of an image that is given by its file, or by that hash itself.

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
        f"--image: wanted the file of an image or its whole SHA-256 (64 hexadecimal digits), got {image!r}: {got}"
    )


def find_sightings(sha256: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return which classifiers had an image in their data, and for which of them that is not known.

    Returns
    -------
    Tags with the split of the image in each, the newest first; and a line for each tag whose manifest cannot be had.

    Raises
    ------
    IntegrityError
        There is no tag of a classifier.
    """
    found, unknown = [], []
    tags = list_tags()
    if not tags:
        raise IntegrityError(
            "wanted a tag classifier@vN.0.0, got none: nothing was promoted here, or `git fetch --tags` brings them"
        )
    for tag in tags:
        try:
            split = parse_images(read_committed(Path(), tag, paths.MANIFEST)).get(sha256)
        except IntegrityError as error:
            unknown.append(f"{tag}: its images are not known: {error}")
        else:
            found += [(tag, split)] if split else []
    return found, unknown


def check_all_known(unknown: list[str]) -> None:
    """Raise `IntegrityError` if the images of a classifier are not known, for it may have seen any."""
    if unknown:
        more = f" (and {len(unknown) - 1:,} more)" if unknown[1:] else ""
        raise IntegrityError(f"{unknown[0]}{more}; `dvc fetch --all-tags` brings what DVC's remote has")


def describe_lineage(lineage: Lineage) -> list[str]:
    """Tell it in lines."""
    counts = Counter(lineage.images.values())
    extractor = lineage.record["extractor"]
    return [
        f"{lineage.tag or 'no tag'}, commit {lineage.commit}",
        f"images       {len(lineage.images):,} ({', '.join(f'{split} {counts[split]:,}' for split in SPLITS)}), "
        f"{paths.MANIFEST} sha256 {lineage.manifest_sha256}",
        f"network      {extractor['network']}, weights {extractor['weights']}, "
        f"network_sha256 {extractor['network_sha256']}",
        f"head         {lineage.record['head']} {json.dumps(lineage.record['options'])}, "
        f"record_sha256 {lineage.record['record_sha256']}",
        f"environment  keras {extractor['keras']}, {extractor['backend']}, Pillow {extractor['pillow']}, "
        f"{ENVIRONMENT} sha256 {lineage.environment_sha256}",
        f"evaluation   accuracy {lineage.metrics['accuracy_score']:.4f} of {lineage.metrics['n_images']:,} images",
    ]


def read_committed(root: Path, revision: str, path: Path) -> bytes:
    """Return the content of a file at a revision of git; what DVC tracks comes from its cache or remote.

    Raises
    ------
    Absent
        It is in none of them.
    IntegrityError
        What DVC has is not what the revision names.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from scmrepo.exceptions import SCMError

    try:
        files = DVCFileSystem(str(root), rev=revision)
        with files.open(path.as_posix(), "rb") as file:
            content: bytes = file.read()
        hashes = files.info(path.as_posix())  # none where git has the file
    except (DvcException, DataIndexDirError, SCMError, OSError) as error:
        raise AbsentFile(
            f"{path} of {revision}: not in git, in DVC's cache or on its remote: {' '.join(str(error).split())}"
        ) from None
    for hash_name in {"md5", TEXT_HASH} & hashes.keys():
        md5, found = hashes[hash_name], hash_content(io.BytesIO(content), hash_name)
        if found == md5:
            continue
        place = find_object(Path(files.repo.cache.local_cache_dir), md5, hash_name)
        if hash_as_dvc(place, hash_name) is None:  # then DVC read it from the remote
            reason = (
                "DVC's remote has other bytes under this hash; remove them, and `dvc push` from a clone with sound ones"
            )
        else:
            reason = describe_damage(place, str(path))
        raise IntegrityError(f"{path} of {revision}: wanted md5 {md5}, got {found}: {reason}")
    return content
