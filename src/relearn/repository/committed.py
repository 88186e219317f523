"""Files as a revision of git has them, by `dvc.api`: from git, or from DVC's cache or remote."""

import io
from pathlib import Path

from relearn.errors import AbsentFile, IntegrityError
from relearn.repository.dvc_files import TEXT_HASH
from relearn.repository.tracked import describe_damage, find_object, hash_as_dvc, hash_content


def read_committed(root: Path, revision: str, path: Path) -> bytes:
    """Return the content of a file at a revision of git; what DVC tracks comes from its cache or remote.

    Raises
    ------
    AbsentFile
        None of them has it.
    IntegrityError
        DVC has other bytes than the revision names.
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
            f"not in git, in DVC's cache or on its remote: {' '.join(str(error).split())}",
            where=f"{path} of {revision}",
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
        raise IntegrityError(where=f"{path} of {revision}", wanted=f"md5 {md5}", got=f"{found}: {reason}")
    return content
