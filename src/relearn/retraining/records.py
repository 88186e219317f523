"""The records of retraining: commits on a branch whose trailers say what was decided.

    Verdict: better | no clear difference | the same | first | not compared | worse | too few images |
             blocked by data | rolled back
    Promoted: v3            only if this version was promoted
    In-use: v3              the production model from then on; none before the first
    Base: COMMIT            whose code, pipeline and parameters were run
    Data-sha256: HASH       of data/manifest.csv
    Sources-sha256: HASH    of the .dvc files that it was run with
    Landing-sha256: HASH    of the list of what waited in the landing folder, or none
    Overrides: KEY=VALUE    only if the run was given other parameters than the base's

A commit without all of these (but for Promoted, Sources-sha256 and Overrides) is a user's own and no record, whatever
its text says. The newest record decides which version is the production model. The tag and `release/current` follow it,
also after a kill between the two, and in a fresh clone.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from relearn import paths
from relearn.errors import RepositoryError
from relearn.repository.dvc_files import hash_sources
from relearn.repository.git import commit_tree, format_message, is_ancestor, read_trailers, run_git, write_commit
from relearn.repository.tags import list_tags, name_tag, name_version
from relearn.retraining.release import VERSION
from relearn.storage.files import hash_bytes

NONE = "none"
# Of every record, also of the first ones ever written, which had no Sources-sha256.
TRAILERS = {"Verdict", "In-use", "Base", "Data-sha256", "Landing-sha256"}
OVERRIDES = "Overrides"
N_GONE = 1000  # in the message of a commit
REPORTS = (paths.VALIDATION_REPORT, paths.VERIFICATION_REPORT)


class Record(NamedTuple):
    """What a commit on the branch says.

    production : the production model; None before the first promotion
    landing_sha256 : None if nothing waited
    overrides : other parameters than those of the base; empty if there were none
    """

    commit: str
    verdict: str
    production: str | None
    base: str
    sources_sha256: str
    landing_sha256: str | None
    overrides: str = ""


class Start(NamedTuple):
    """Where a retraining begins.

    base, tip : commits of the base and of the branch of records
    production : commit that promoted the production model
    record : the newest one
    tried : the newest one with the base's own parameters: what it judged needs no other run
    """

    base: str
    tip: str | None
    production: str | None
    record: Record | None
    tried: Record | None

    @property
    def version(self) -> str | None:
        """The version of the production model."""
        return self.record.production if self.record else None


def find_promotion(root: Path, tip: str, version: str) -> str:
    """Return the commit that promoted a version, among a commit and its ancestors.

    Raises
    ------
    RepositoryError
        None did.
    """
    for commit, trailers in _iterate_records(root, tip, f"^Promoted: {version}$"):
        if trailers.get("Promoted") == version:
            return commit
    raise RepositoryError(where=tip[:12], wanted=f"a record of the promotion of {version}", got="none before it")


def _iterate_records(root: Path, tip: str, line: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the records with such a line, the newest first, and their trailers.

    The line alone makes no record: it may stand in the text of a user's commit, such as the notes of a release.
    """
    for commit in run_git(root, "log", "--topo-order", f"--grep={line}", "--format=%H", tip).split():
        trailers = read_trailers(root, commit)
        if trailers.keys() >= TRAILERS:
            yield commit, trailers


def find_record(root: Path, tip: str, is_plain: bool = False) -> Record | None:
    """Return the newest record among a commit and its ancestors; with `is_plain`, the newest without overrides.

    Raises
    ------
    RepositoryError
        Its trailer In-use names no version.
    """
    records = _iterate_records(root, tip, "^Verdict: ")
    commit, trailers = next((record for record in records if not (is_plain and OVERRIDES in record[1])), (None, {}))
    if commit is None:
        return None
    production, landing = trailers["In-use"], trailers["Landing-sha256"]
    if production != NONE and not VERSION.fullmatch(production):
        raise RepositoryError(
            where=commit[:12],
            wanted="the trailer In-use: vN or none",
            got=repr(production[:40]),
            advice="set the branch back to the commit before it, or commit a correct record on top",
        )
    return Record(
        commit,
        trailers["Verdict"],
        None if production == NONE else production,
        trailers["Base"],
        trailers.get("Sources-sha256", NONE),
        None if landing == NONE else landing,
        trailers.get(OVERRIDES, ""),
    )


def write_record(
    root: Path,
    worktree: Path,
    start: Start,
    decision: dict[str, Any],
    landing_sha256: str | None,
    *,
    overrides: Sequence[str] = (),
) -> tuple[str, str | None]:
    """Commit the result of a retraining, to no branch yet.

    The commit has the challenger's data, `dvc.lock`, metrics and reports, promoted or not. If a gate failed there is no
    challenger, and only the reports of the gates are new.

    Parameters
    ----------
    decision
        What `relearn decide` wrote, and as `gone` what `list_gone` found.
    overrides
        Other parameters than those of the base, as `KEY=VALUE`.

    Returns
    -------
    The commit, and the version of the production model from then on.
    """
    version = choose_version(root, start.tip) if decision["promoted"] else start.version
    hashes = {"Landing-sha256": landing_sha256 or NONE} | ({OVERRIDES: " ".join(overrides)} if overrides else {})
    message = _describe_record(worktree, start, decision, version, hashes)
    parents = [start.tip or start.base]
    if decision["failed_checks"]:
        return commit_tree(worktree, _write_reports(worktree, parents[0]), parents, message), version
    if not is_ancestor(root, start.base, parents[0]):
        parents.append(start.base)
    return write_commit(worktree, parents, message), version


def _describe_record(
    worktree: Path, start: Start, decision: dict[str, Any], version: str | None, trailers: Mapping[str, str]
) -> str:
    promoted, verdict = decision["promoted"], decision["verdict"]
    action = f"Promote {name_tag(version)}" if promoted and version else f"Keep {version or NONE}"
    gone = [f"- {path}: {reason}" for path, reason in decision.get("gone", [])]
    title = f"Images of {start.version} that are not in this data: {len(gone):,}"
    body = "\n\n".join([decision["reason"], *(["\n".join([title, *gone[:N_GONE]])] if gone else [])])
    trailers = {
        "Verdict": verdict,
        **({"Promoted": version} if promoted and version else {}),
        "In-use": version or NONE,
        "Base": start.base,
        "Sources-sha256": hash_sources(worktree),
        "Data-sha256": hash_bytes((worktree / paths.MANIFEST).read_bytes()),
        **trailers,
    }
    return format_message(f"{action}: {verdict}", body, trailers)


def _write_reports(worktree: Path, parent: str) -> str:
    """Return the tree of a commit with the reports of the gates in a worktree."""
    reports = {path: (worktree / path).read_bytes() for path in REPORTS if (worktree / path).exists()}
    run_git(worktree, "read-tree", "--reset", "-u", parent)
    for path, content in reports.items():
        (worktree / path).parent.mkdir(parents=True, exist_ok=True)
        (worktree / path).write_bytes(content)
    run_git(worktree, "add", "--", *(path.as_posix() for path in reports))
    return run_git(worktree, "write-tree").strip()


def choose_version(root: Path, tip: str | None) -> str:
    """Return the version after all that were ever promoted, whether or not they have a tag here."""
    promoted = run_git(root, "log", "--format=%(trailers:key=Promoted,valueonly)", tip).split() if tip else []
    promoted = [version for version in promoted if VERSION.fullmatch(version)]  # not what a user wrote there
    tagged = [name_version(tag) for tag in list_tags(root)]
    return f"v{max((int(version[1:]) for version in [*promoted, *tagged]), default=0) + 1}"
