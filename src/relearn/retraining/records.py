"""What a retraining begins from and leaves behind: records on a branch, tags, and the classifier in use.

A record is a commit whose trailers say what was decided:

    Verdict: better | no clear difference | the same | first | not compared | worse | blocked by data | rolled back
    Promoted: v3            only where this is the version that was promoted
    In-use: v3              the version in use from then on; none before the first
    Base: COMMIT            whose code, pipeline and parameters were run
    Data-sha256: HASH       of data/manifest.csv
    Sources-sha256: HASH    of the .dvc files that it was run with
    Landing-sha256: HASH    of the list of what waited in the landing folder, or none

A commit without all of these, Promoted and Sources-sha256 aside, is a person's and no record, whatever its text says.
The newest record is the truth on what is in use; tag and `release/current` follow it, also after a kill between the
two, and in a fresh clone. A run begins with the data of the version in use and what waits in the landing folder. So
images that did not pass the gate, or made a candidate worse, go on waiting there until a person has looked at them.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from relearn import paths
from relearn.dataset.manifest import Exclusion, SourceDetails, read_manifest
from relearn.errors import AbsentFile, IntegrityError, ParamsError, RepositoryError
from relearn.inference.classifier import HEAD, RECORD
from relearn.params import Params, RetrainParams, parse_blocks
from relearn.repository.git import (
    add_tag,
    check_branch_is_free,
    check_refs_can_move,
    commit_tree,
    find_commit,
    format_message,
    is_ancestor,
    is_branch_name,
    list_files,
    move_branch,
    read_trailers,
    run_git,
    write_commit,
)
from relearn.repository.lock import hold_lock
from relearn.repository.tracked import DataFile, Parts, Pipeline, parse_dvc_file
from relearn.retraining.candidate import IMAGES_HEADER
from relearn.retraining.landing import Waiting
from relearn.retraining.lineage import (
    decode_text,
    list_tags,
    name_tag,
    name_version,
    parse_images,
    read_committed,
)
from relearn.retraining.release import (
    IMAGES,
    VERSION,
    VERSIONS,
    find_current,
    keep_version,
    list_versions,
    switch_current,
)
from relearn.storage.files import hash_bytes, read_csv, write_file

UNPUSHED = Path(".relearn/retrain/unpushed")  # is there while something is recorded here alone
FRUITLESS = Path(".relearn/retrain/fruitless")  # what waited when a run found nothing new, and the record then
NONE = "none"
# Of every record, also of the first ones ever written, which had no Sources-sha256.
TRAILERS = {"Verdict", "In-use", "Base", "Data-sha256", "Landing-sha256"}
N_GONE = 1000  # in the message of a commit
LOCK = ".lock"
PATIENCE_SECONDS = 60  # for whoever switches the release at the same moment
REPORTS = (paths.VALIDATION_REPORT, paths.VERIFICATION_REPORT)


class Record(NamedTuple):
    """What a commit on the branch says; `in_use` is None before the first promotion, the hash where nothing waited."""

    commit: str
    verdict: str
    in_use: str | None
    base: str
    sources_sha256: str
    landing_sha256: str | None


class Start(NamedTuple):
    """Where a retraining begins: commits of the base, of the branch, of the version in use, and the newest record."""

    base: str
    tip: str | None
    in_use: str | None
    record: Record | None

    @property
    def version(self) -> str | None:
        """The version in use."""
        return self.record.in_use if self.record else None


def read_settings(root: Path, base: str) -> RetrainParams:
    """Read how to retrain from the `params.yaml` that is committed in the base, whatever a person is editing.

    Raises
    ------
    RepositoryError, ParamsError
        There is no such branch, or its parameters are wrong.
    """
    commit = find_commit(root, f"refs/heads/{base}")
    if commit is None:
        raise RepositoryError(f"base: {base}: wanted a branch with a commit, got none of that name")
    return read_settings_of(root, commit, base)


def read_settings_of(root: Path, commit: str, name: str) -> RetrainParams:
    """Read how to retrain from a commit, which is called `name` in errors.

    Raises
    ------
    ParamsError
        The parameters are wrong, or git refuses the name of the branch.
    """
    content = run_git(root, "cat-file", "blob", f"{commit}:{paths.PARAMS}").encode(errors="surrogateescape")
    params = parse_blocks(content, f"{name}:{paths.PARAMS}", Params).retrain
    if not is_branch_name(root, params.branch):
        raise ParamsError(
            f"{name}:{paths.PARAMS}: retrain.branch: wanted a name that git takes for a branch "
            f"(`git help check-ref-format`), got {params.branch!r}"
        )
    return params


def check_refs(root: Path, start: Start, branch: str) -> None:
    """Raise `RepositoryError` if git would refuse to record: a lock that it left, or another ref in the way."""
    tag = name_tag(choose_version(root, start.tip))
    try:
        check_refs_can_move(root, start.base, {f"refs/heads/{branch}": start.tip, f"refs/tags/{tag}": None})
    except RepositoryError as error:
        words = str(error)
        raise RepositoryError(f"retrain.branch: {branch}: {words}" if words.startswith("git ") else words) from None


def follow_remote(root: Path, remote: str, branch: str) -> None:
    """Let a branch of records be where the remote's is, if that is ahead; both having moved is an error.

    Raises
    ------
    RepositoryError
        Each has records that the other has not.
    """
    here, there = find_commit(root, f"refs/heads/{branch}"), find_commit(root, f"refs/remotes/{remote}/{branch}")
    if here is None or there is None or is_ancestor(root, there, here):
        return
    if not is_ancestor(root, here, there):
        raise RepositoryError(
            f"{branch}: has other records here than on {remote}; retrain in one clone alone, and let this one follow: "
            f"git branch --force {branch} {remote}/{branch}"
        )
    move_branch(root, branch, there, here)


def find_start(root: Path, base: str, params: RetrainParams) -> Start:
    """Find where a retraining begins; a branch that is a remote's alone becomes one here too."""
    commit = find_commit(root, f"refs/heads/{base}")
    assert commit  # the settings came from there
    theirs = params.git_remote and find_commit(root, f"refs/remotes/{params.git_remote}/{base}")
    if theirs and is_ancestor(root, commit, theirs):
        commit = theirs
    tip = find_commit(root, f"refs/heads/{params.branch}")
    if tip is None:  # a fresh clone has it as its remote's
        remotes = run_git(root, "for-each-ref", "--format=%(objectname)", f"refs/remotes/*/{params.branch}").split()
        if len(set(remotes)) == 1:
            (tip,) = set(remotes)
            move_branch(root, params.branch, tip, None)
    record = find_record(root, tip) if tip else None
    in_use = find_promotion(root, tip, record.in_use) if tip and record and record.in_use else None
    return Start(commit, tip, in_use, record)


def find_promotion(root: Path, tip: str, version: str) -> str:
    """Return the commit that promoted a version, among a commit and those that it came from.

    Raises
    ------
    RepositoryError
        None did.
    """
    for commit, told in _iterate_records(root, tip, f"^Promoted: {version}$"):
        if told.get("Promoted") == version:
            return commit
    raise RepositoryError(f"{tip[:12]}: wanted a record of the promotion of {version}, got none before it")


def _iterate_records(root: Path, tip: str, line: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the records with a line like this, the newest first, and their trailers.

    Such a line alone makes no record: it may stand in the text of a person's commit, such as the notes of a release.
    """
    for commit in run_git(root, "log", "--topo-order", f"--grep={line}", "--format=%H", tip).split():
        told = read_trailers(root, commit)
        if told.keys() >= TRAILERS:
            yield commit, told


def find_record(root: Path, tip: str) -> Record | None:
    """Return the newest record among a commit and those that it came from.

    Raises
    ------
    RepositoryError
        What it says is in use is no version.
    """
    commit, told = next(_iterate_records(root, tip, "^Verdict: "), (None, {}))
    if commit is None:
        return None
    in_use, landing = told["In-use"], told["Landing-sha256"]
    if in_use != NONE and not VERSION.fullmatch(in_use):
        raise RepositoryError(
            f"{commit[:12]}: wanted the trailer In-use: vN or none, got {in_use[:40]!r}; set the branch back to the "
            "commit before it, or commit a record that is right on top"
        )
    return Record(
        commit,
        told["Verdict"],
        None if in_use == NONE else in_use,
        told["Base"],
        told.get("Sources-sha256", NONE),
        None if landing == NONE else landing,
    )


def hash_waiting(waiting: Sequence[Waiting]) -> str | None:
    """Return a hash of the list of what waits; None where nothing does."""
    return hash_bytes(json.dumps(waiting).encode()) if waiting else None


def has_new_base(root: Path, start: Start) -> bool:
    """Tell whether the base has commits that no record has seen."""
    if start.record is None or start.tip is None:
        return True
    return start.base != start.record.base and not is_ancestor(root, start.base, start.tip)


def was_tried(start: Start, landing_sha256: str | None) -> bool:
    """Tell whether what waits was judged before, and stays; after a promotion it does so by a kill alone."""
    record = start.record
    return record is not None and record.landing_sha256 == landing_sha256 and record.commit != start.in_use


def was_fruitless(root: Path, start: Start, landing_sha256: str | None) -> bool:
    """Return whether a run since the newest record has found that what waits brings nothing: no record says so."""
    try:
        return (root / FRUITLESS).read_bytes() == _describe_fruitless(start, landing_sha256)
    except FileNotFoundError:
        return False


def keep_fruitless(root: Path, start: Start, waiting: Sequence[Waiting]) -> None:
    """Remember that what goes on waiting brings nothing, such as a file that `.dvcignore` names."""
    with write_file(root / FRUITLESS) as file:
        file.write(_describe_fruitless(start, hash_waiting(waiting)))


def _describe_fruitless(start: Start, landing_sha256: str | None) -> bytes:
    return f"{start.record.commit if start.record else NONE} {landing_sha256 or NONE}\n".encode()


def describe_old_news(start: Start, tried_sha256: str | None) -> str:
    """Say why there is nothing to do: nothing has come, or what came was tried, or cannot be taken."""
    assert start.record
    if tried_sha256 is None:
        return "nothing new"
    if tried_sha256 not in (start.record.landing_sha256, start.record.sources_sha256):
        return "nothing new: what waits brought nothing to an earlier run, whose message says why"
    return f"nothing new: what came was tried before, {start.record.verdict} ({start.record.commit[:12]})"


def hash_sources(folder: Path, commit: str | None = None) -> str:
    """Return a hash of the `.dvc` files of a commit, or of those in a worktree as they are."""
    names = list_data_files(folder, commit or run_git(folder, "write-tree").strip())
    if commit:
        contents = [run_git(folder, "cat-file", "blob", f"{commit}:{name}") for name in names]
    else:
        contents = [(folder / name).read_text(encoding="utf-8", errors="surrogateescape") for name in names]
    return hash_bytes(json.dumps(list(zip(names, contents, strict=True))).encode())


def list_data_files(root: Path, commit: str) -> list[str]:
    """Return the `.dvc` files of a commit, without those of DVC repositories below."""
    files = list_files(root, commit)
    below = tuple(name.removesuffix(".dvc/config") for name in files if name.endswith("/.dvc/config"))
    return [name for name in files if name.endswith(".dvc") and not name.startswith(below)]


def list_imports(root: Path, commit: str) -> list[str]:
    """Return those `.dvc` files that `dvc import` or `dvc import-url` wrote."""
    return [name for name in list_data_files(root, commit) if _read_dvc_file(root, commit, name, DataFile).deps]


def list_kept_files(root: Path, start: Start) -> list[str]:
    """Return what the worktree takes from the version in use and not from the base: data, `dvc.lock`, small outputs.

    Data that was changed in the base since it parted from the version in use is the base's.

    Raises
    ------
    RepositoryError
        It was changed in both, in two ways.
    """
    if start.in_use is None:
        return []
    fork = run_git(root, "merge-base", start.base, start.in_use).strip()
    kept = []
    for name in list_data_files(root, start.in_use):
        at_fork, at_base, in_use = (_find_blob(root, commit, name) for commit in (fork, start.base, start.in_use))
        if at_base == at_fork:
            kept.append(name)
        elif in_use not in (at_fork, at_base):
            raise RepositoryError(
                f"{name}: was changed in the base and by retraining, since {fork[:12]}; bring both together: merge "
                f"{start.version and name_tag(start.version)} into the base, and commit"
            )
    stages = _read_dvc_file(root, start.base, "dvc.yaml", Pipeline).stages or {}
    return [*kept, "dvc.lock", *(path for stage in stages.values() for path in stage.uncached)]


def _find_blob(root: Path, commit: str, name: str) -> str | None:
    try:
        return run_git(root, "rev-parse", "--verify", "--quiet", f"{commit}:{name}").strip()
    except RepositoryError:
        return None


def _read_dvc_file(root: Path, commit: str, name: str, model: type[Parts]) -> Parts:
    content = run_git(root, "cat-file", "blob", f"{commit}:{name}").encode(errors="surrogateescape")
    return parse_dvc_file(content, f"{commit[:12]}:{name}", model)


def write_record(
    root: Path, worktree: Path, start: Start, contest: dict[str, Any], landing_sha256: str | None
) -> tuple[str, str | None]:
    """Commit what came of a retraining, to no branch yet.

    The commit has the candidate's data, `dvc.lock`, metrics and reports, promoted or not; where a gate failed there is
    no candidate, and the reports of the gates are all that is new.

    Parameters
    ----------
    contest
        What `relearn decide` wrote, and as `gone` what `list_gone` found.

    Returns
    -------
    The commit, and the version that is in use with it.
    """
    promoted, verdict = contest["promoted"], contest["verdict"]
    version = choose_version(root, start.tip) if promoted else start.version
    subject = f"{f'Promote {name_tag(version)}' if promoted and version else f'Keep {version or NONE}'}: {verdict}"
    trailers = {
        "Verdict": verdict,
        **({"Promoted": version} if promoted and version else {}),
        "In-use": version or NONE,
        "Base": start.base,
        "Sources-sha256": hash_sources(worktree),
        "Data-sha256": hash_bytes((worktree / paths.MANIFEST).read_bytes()),
        "Landing-sha256": landing_sha256 or NONE,
    }
    gone = [f"- {path}: {reason}" for path, reason in contest.get("gone", [])]
    title = f"Images of {start.version} that are not in this data: {len(gone):,}"
    body = "\n\n".join([contest["reason"], *(["\n".join([title, *gone[:N_GONE]])] if gone else [])])
    parents = [start.tip or start.base]
    if contest["failed_checks"]:
        reports = {path: (worktree / path).read_bytes() for path in REPORTS if (worktree / path).exists()}
        run_git(worktree, "read-tree", "--reset", "-u", parents[0])
        for path, content in reports.items():
            (worktree / path).parent.mkdir(parents=True, exist_ok=True)
            (worktree / path).write_bytes(content)
        run_git(worktree, "add", "--", *(path.as_posix() for path in reports))
        tree = run_git(worktree, "write-tree").strip()
        return commit_tree(worktree, tree, parents, format_message(subject, body, trailers)), version
    if not is_ancestor(root, start.base, parents[0]):
        parents.append(start.base)
    return write_commit(worktree, parents, format_message(subject, body, trailers)), version


def choose_version(root: Path, tip: str | None) -> str:
    """Return the version after all that were ever promoted, whether or not they have a tag here."""
    told = run_git(root, "log", "--format=%(trailers:key=Promoted,valueonly)", tip).split() if tip else []
    told = [version for version in told if VERSION.fullmatch(version)]  # not what a person wrote there
    tagged = [name_version(tag) for tag in list_tags(root)]
    return f"v{max((int(version[1:]) for version in [*told, *tagged]), default=0) + 1}"


def publish_record(root: Path, branch: str, commit: str, before: str | None) -> None:
    """Let the branch be at a new record, and tag and release follow.

    Raises
    ------
    RepositoryError
        The branch was moved since the retraining began, such as by a rollback.
    """
    with hold_lock(root / paths.RELEASE / LOCK, "a change of the release", PATIENCE_SECONDS):
        check_branch_is_free(root, branch)
        (root / UNPUSHED).parent.mkdir(parents=True, exist_ok=True)
        (root / UNPUSHED).touch()
        try:
            move_branch(root, branch, commit, before)
        except RepositoryError as error:
            if find_commit(root, f"refs/heads/{branch}") == before:
                raise
            raise RepositoryError(
                f"{branch} was moved while this ran, so nothing is recorded; the next run begins there ({error})"
            ) from None
        _follow(root, branch)


def align_release(root: Path, branch: str) -> None:
    """Make tag and `release/current` what the newest record says, whatever came in between."""
    with hold_lock(root / paths.RELEASE / LOCK, "a change of the release", PATIENCE_SECONDS):
        _follow(root, branch)


def _follow(root: Path, branch: str) -> None:
    tip = find_commit(root, f"refs/heads/{branch}")
    record = find_record(root, tip) if tip else None
    if tip is None or record is None or record.in_use is None:
        return
    release, tag = root / paths.RELEASE, name_tag(record.in_use)
    promotion = find_promotion(root, tip, record.in_use)
    add_tag(root, tag, promotion, run_git(root, "log", "-1", "--format=%B", promotion))
    _keep(root, record.in_use)
    try:
        current = find_current(release)
    except IntegrityError:
        current = None
    if current != record.in_use:
        switch_current(release, record.in_use)


def _keep(root: Path, version: str) -> None:
    """Bring a version into the release, unless it is there: from DVC's cache or its remote."""
    if version not in list_versions(root / paths.RELEASE):
        keep_version(root / paths.RELEASE, _read_version(root, version), version)


def check_version(root: Path, version: str) -> str | None:
    """Hold a version of the release against what is recorded; return why that cannot be done, None if it was.

    Raises
    ------
    IntegrityError
        It is another one, or DVC has something else than what is recorded.
    """
    try:
        contents = _read_version(root, version)
    except AbsentFile as error:
        return f"{paths.RELEASE / VERSIONS / version} was not held against its record: {error}"
    keep_version(root / paths.RELEASE, contents, version)
    return None


def _read_version(root: Path, version: str) -> dict[str, bytes]:
    """Read the files of a version from its tag.

    Raises
    ------
    IntegrityError
        One of them cannot be had, or is another one than the record names.
    """
    tag = name_tag(version)
    contents = {name: read_committed(root, tag, paths.CLASSIFIER / name) for name in (HEAD, RECORD)}
    manifest = read_committed(root, tag, paths.MANIFEST)
    wanted = read_trailers(root, tag).get("Data-sha256", NONE)
    if wanted not in (NONE, hash_bytes(manifest)):
        raise IntegrityError(
            f"{paths.MANIFEST} of {tag}: wanted sha256 {wanted}, as is recorded there, got {hash_bytes(manifest)}"
        )
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(IMAGES_HEADER)
    writer.writerows(sorted(parse_images(manifest).items()))
    return contents | {IMAGES: table.getvalue().encode()}


def list_gone(root: Path, worktree: Path, version: str) -> list[Exclusion]:
    """Return the images of a version that are not in the data of a worktree, each by its path in the source, and why.

    Raises
    ------
    IntegrityError
        The version or the data cannot be read.
    """
    manifest = read_manifest(worktree / paths.MANIFEST)
    gone = _read_images(root, version).keys() - {row.sha256 for row in manifest}
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


def roll_back(root: Path, branch: str, name: str | None) -> list[str]:
    """Put another version in use, and record that; return what was done, in lines.

    A retraining that runs meanwhile finds the branch moved, and records nothing.

    Parameters
    ----------
    name
        A version or its tag; None for the version before the one in use.

    Raises
    ------
    RepositoryError
        Nothing was promoted yet, or there is no such version, or none before.
    """
    check_branch_is_free(root, branch)
    align_release(root, branch)
    tags = list_tags(root)
    tip = find_commit(root, f"refs/heads/{branch}")
    record = find_record(root, tip) if tip else None
    if record is None or record.in_use is None or tip is None:
        raise RepositoryError(f"{branch}: no classifier was promoted there yet, so there is none to go back to")
    earlier = [tag for tag in tags if int(name_version(tag)[1:]) < int(record.in_use[1:])]
    tag = name_tag(name) if name else next(iter(earlier), None)
    if tag is None:
        raise RepositoryError(f"{name_tag(record.in_use)} is in use, and there is none before it")
    if tag not in tags:
        raise RepositoryError(f"{name}: wanted one of {', '.join(tags)}")
    version = name_version(tag)
    if version == record.in_use:
        return [f"{tag} is in use"]
    _keep(root, version)
    subject = f"Roll back to {tag} from {name_tag(record.in_use)}"
    told = read_trailers(root, tag)
    trailers = {
        "Verdict": "rolled back",
        "In-use": version,
        "Base": record.base,
        "Sources-sha256": record.sources_sha256,  # so an import that brings them again is no news
        "Data-sha256": told.get("Data-sha256", NONE),
        "Landing-sha256": record.landing_sha256 or NONE,
    }
    commit = commit_tree(root, f"{tag}^{{tree}}", [tip], format_message(subject, "", trailers))
    publish_record(root, branch, commit, tip)
    lines = [f"{tag} is in use, {name_tag(record.in_use)} is not any more; recorded as {commit[:12]} on {branch}"]
    kept = _read_images(root, version)
    left = [image for image in _read_images(root, record.in_use) if image not in kept]
    if left:
        lines.append(
            f"images of {name_tag(record.in_use)} that are not in the data of the next retraining: {len(left):,}; to "
            "have them back, put them into the landing folder"
        )
    return lines


def _read_images(root: Path, version: str) -> dict[str, str]:
    """Return the split of each image of a version; nothing if it is not kept."""
    path = root / paths.RELEASE / VERSIONS / version / IMAGES
    return dict(read_csv(path, IMAGES_HEADER)) if path.exists() else {}
