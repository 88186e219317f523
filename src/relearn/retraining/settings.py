"""The settings of a retraining: the `retrain` block of the `params.yaml` that is committed in the base."""

from collections.abc import Sequence
from pathlib import Path

from relearn import paths
from relearn.errors import ParamsError, RepositoryError
from relearn.params.pipeline import Params, RetrainParams
from relearn.params.reading import parse_blocks
from relearn.repository.git import find_commit, find_prefix, is_branch_name, read_blob
from relearn.repository.overrides import override_params


def read_settings(root: Path, base: str) -> RetrainParams:
    """Read the settings that are committed in a branch, whatever the user is editing.

    Raises
    ------
    RepositoryError, ParamsError
        There is no such branch, its parameters are wrong, or the root is a folder of a larger git repository.
    """
    if prefix := find_prefix(root):
        raise RepositoryError(
            where=root.absolute(),
            wanted="the top of a git repository, because retraining moves its branches and tags",
            got=f"the folder {prefix} of a larger one",
            advice="retrain in a repository of its own",
        )
    commit = find_commit(root, f"refs/heads/{base}")
    if commit is None:
        raise RepositoryError(where=f"base: {base}", wanted="a branch with a commit", got="none of that name")
    return read_settings_of(root, commit, base)


def override_settings(root: Path, commit: str, name: str, overrides: Sequence[str]) -> bytes:
    """Return the `params.yaml` of a commit, called `name` in errors, with other values; see `override_params`.

    Raises
    ------
    ParamsError
        A key or a value is wrong, or is one of the block `retrain`.
    """
    content = read_blob(root, commit, paths.PARAMS)
    before = parse_blocks(content, f"{name}:{paths.PARAMS}", Params)  # so that the text is UTF-8
    changed = override_params(content.decode(), overrides).encode()
    if parse_blocks(changed, f"{paths.PARAMS} with -S {' '.join(overrides)}", Params).retrain != before.retrain:
        raise ParamsError(
            where=f"-S {' '.join(overrides)}",
            wanted="keys of other blocks than retrain",
            got="a key of retrain",
            advice=f"change it in {paths.PARAMS}, and commit",
        )
    return changed


def read_settings_of(root: Path, commit: str, name: str) -> RetrainParams:
    """Read the settings of a commit, which is called `name` in errors.

    Raises
    ------
    ParamsError
        The parameters are wrong, or git refuses the name of the branch.
    """
    params = parse_blocks(read_blob(root, commit, paths.PARAMS), f"{name}:{paths.PARAMS}", Params).retrain
    if not is_branch_name(root, params.branch):
        raise ParamsError(
            where=f"{name}:{paths.PARAMS}: retrain.branch",
            wanted="a name that git accepts for a branch (`git help check-ref-format`)",
            got=repr(params.branch),
        )
    return params
