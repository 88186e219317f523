"""`relearn rollback`: an earlier version is the production model again."""

from pathlib import Path

from relearn.errors import RepositoryError
from relearn.repository.git import check_branch_is_free, commit_tree, find_commit, format_message, read_trailers
from relearn.repository.tags import list_tags, name_tag, name_version
from relearn.retraining.publication import align_release, publish_record
from relearn.retraining.records import NONE, OVERRIDES, find_record
from relearn.retraining.versions import bring_version, read_images


def roll_back(root: Path, branch: str, name: str | None) -> list[str]:
    """Make another version the production model, and record that; return what was done, in lines.

    A retraining that runs meanwhile finds the branch moved, and records nothing.

    Parameters
    ----------
    name
        A version or its tag; None for the version before the production model.

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
    if record is None or record.production is None or tip is None:
        raise RepositoryError("no classifier was promoted there yet, so there is no earlier one", where=branch)
    tag = _choose_earlier(tags, record.production) if name is None else name_tag(name)
    if tag not in tags:
        raise RepositoryError(where=name, wanted=f"one of {', '.join(tags)}", got="no such version")
    version, before = name_version(tag), name_tag(record.production)
    if version == record.production:
        return [f"{tag} is the production model"]
    bring_version(root, version)
    trailers = {
        "Verdict": "rolled back",
        "In-use": version,
        "Base": record.base,
        "Sources-sha256": record.sources_sha256,  # so an import that brings them again is no news
        "Data-sha256": read_trailers(root, tag).get("Data-sha256", NONE),
        "Landing-sha256": record.landing_sha256 or NONE,
        **({OVERRIDES: record.overrides} if record.overrides else {}),  # so that the base is tried by itself
    }
    message = format_message(f"Roll back to {tag} from {before}", "", trailers)
    commit = commit_tree(root, f"{tag}^{{tree}}", [tip], message)
    publish_record(root, branch, commit, tip)
    lines = [f"{tag} is the production model, {before} is not any more; recorded as {commit[:12]} on {branch}"]
    if n_left := len(read_images(root, record.production).keys() - read_images(root, version).keys()):
        lines.append(
            f"images of {before} that are not in the data of the next retraining: {n_left:,}; to have them back, put "
            "them into the landing folder"
        )
    return lines


def _choose_earlier(tags: list[str], version: str) -> str:
    """Return the newest of the tags, which come newest first, that is older than a version."""
    earlier = [tag for tag in tags if int(name_version(tag)[1:]) < int(version[1:])]
    if not earlier:
        raise RepositoryError(f"{name_tag(version)} is the production model, and there is none before it")
    return earlier[0]
