"""Where a classifier came from: its images, parameters, code and environment; and which classifiers saw an image."""

import csv
import io
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from relearn import paths
from relearn.classifier import RECORD
from relearn.errors import IntegrityError
from relearn.files import hash_bytes, read_json
from relearn.manifest import SPLITS

# The tags that the model registry of DVC reads: https://dvc.org/doc/gto/user-guide
TAG = re.compile(r"classifier@v(\d+)\.0\.0")
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


def find_lineage(name: str) -> Lineage:
    """Return where a classifier came from, told by a tag, another revision of git, or its folder.

    Raises
    ------
    IntegrityError
        There is no such revision, it has no classifier, or no tag has the classifier of the folder.
    """
    if not (Path(name) / RECORD).is_file():
        return read_lineage(name)
    sha256 = read_json(Path(name) / RECORD, ["record_sha256"])["record_sha256"]
    for tag in list_tags():
        if (found := read_lineage(tag)).record["record_sha256"] == sha256:
            return found
    raise IntegrityError(f"{name}: no tag {TAG.pattern} has this classifier (record_sha256 {sha256})")


def list_tags() -> list[str]:
    """Return the tags of promoted classifiers, the newest first."""
    tags = [tag for tag in _run_git("tag", "--list").split() if TAG.fullmatch(tag)]
    return sorted(tags, key=lambda tag: int(TAG.fullmatch(tag)[1]), reverse=True)  # type: ignore[index]


def read_lineage(revision: str) -> Lineage:
    """Read what a revision of git says of its classifier; large files come from DVC's cache or remote."""
    commit = _run_git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").strip()
    manifest = _read(commit, paths.MANIFEST)
    rows = csv.DictReader(io.StringIO(manifest))
    return Lineage(
        revision if TAG.fullmatch(revision) else None,
        commit,
        {row["sha256"]: row["split"] for row in rows},
        hash_bytes(manifest.encode()),
        hash_bytes(_read(commit, ENVIRONMENT).encode()),
        _read(commit, paths.PARAMS),
        json.loads(_read(commit, paths.CLASSIFIER / RECORD)),
        json.loads(_read(commit, paths.EVALUATION_METRICS)),
    )


def find_sightings(sha256: str) -> list[tuple[str, str]]:
    """Return the tags of the classifiers whose data had an image, the newest first, with its split in each."""
    found = ((tag, read_lineage(tag).images.get(sha256)) for tag in list_tags())
    return [(tag, split) for tag, split in found if split]


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


def _read(commit: str, path: Path) -> str:
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        text: str = dvc.api.read(path.as_posix(), repo=".", rev=commit, encoding="utf-8")
    except (DvcException, FileNotFoundError) as error:
        raise IntegrityError(
            f"{path} of {commit[:12]}: not in git, in DVC's cache or on its remote: {' '.join(str(error).split())}"
        ) from None
    return text


def _run_git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    if answer.returncode:
        raise IntegrityError(f"git {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout
