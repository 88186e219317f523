"""Files as a revision of git has them, by `dvc.api`: from git, or from DVC's cache or remote."""

import io
from functools import partial
from pathlib import Path

from relearn.errors import AbsentFile, IntegrityError
from relearn.repository.dvc_files import TEXT_HASH, read_dvc_config, read_dvc_settings
from relearn.repository.git import find_prefix
from relearn.repository.tracked import describe_damage, find_object, hash_as_dvc, hash_content


def read_committed(root: Path, revision: str, path: Path) -> bytes:
    """Return the content of a file at a revision of git; what DVC tracks comes from its cache or remote.

    Parameters
    ----------
    root
        The root of the repository of DVC, which may be a folder of a larger git repository.
    path
        Relative to the root.

    Raises
    ------
    AbsentFile
        None of them has it.
    IntegrityError
        DVC has other bytes than the revision names.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.index import DataIndexDirError
    from scmrepo.exceptions import SCMError

    prefix = find_prefix(root)
    place_in_git = f"/{prefix}{path.as_posix()}"  # DVC opens a revision at the top of git
    # It resolves the relative paths of a configuration there, too.
    below = {"subrepos": True, "repo_factory": partial(Repo, config=read_dvc_config(root))} if prefix else {}
    try:
        files = DVCFileSystem(str(root), rev=revision, **below)
        with files.open(place_in_git, "rb") as file:
            content: bytes = file.read()
        hashes = files.info(place_in_git)  # none where git has the file
    except (DvcException, DataIndexDirError, SCMError, OSError) as error:
        raise AbsentFile(
            f"not in git, in DVC's cache or on its remote: {' '.join(str(error).split())}",
            where=f"{path} of {revision}",
        ) from None
    for hash_name in {"md5", TEXT_HASH} & hashes.keys():
        md5, found = hashes[hash_name], hash_content(io.BytesIO(content), hash_name)
        if found == md5:
            continue
        place = find_object(read_dvc_settings(root).cache, md5, hash_name)
        if hash_as_dvc(place, hash_name) is None:  # then DVC read it from the remote
            reason = (
                "DVC's remote has other bytes under this hash; remove them, and `dvc push` from a clone with sound ones"
            )
        else:
            reason = describe_damage(place, str(path))
        raise IntegrityError(where=f"{path} of {revision}", wanted=f"md5 {md5}", got=f"{found}: {reason}")
    return content
