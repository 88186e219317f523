"""Too little memory: how it is noticed, and what to do about it."""

import errno
import re
import resource

from relearn.errors import RelearnError

# In the texts of errors of the loader, of Python's threads and of TensorFlow.
TEXTS = re.compile("failed to map segment|[Cc]annot allocate memory|can't start new thread|RESOURCE_EXHAUSTED")
MIN_ADDRESS_BYTES = 10**9


def check_address_space() -> None:
    """Raise `RelearnError` if the limit of memory is too low: libraries would fail in many lines, or hang."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_BYTES:
        raise RelearnError(
            wanted=f"at least {MIN_ADDRESS_BYTES / 1e6:,.0f} MB of address space",
            got=f"a limit of {limit / 1e6:,.0f} MB (ulimit -v)",
            advice="raise it",
        )


def is_shortage(error: Exception) -> bool:
    """Return whether an error says that there is too little memory, or that no more threads can be started."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or TEXTS.search(str(error)) is not None


def describe_shortage(command: str) -> str:
    """Return what to do about it, by the name of the command that ran."""
    advice = {
        "finetune": "lower finetune.batch_size or extract.batch_size",
        "extract": "lower extract.batch_size or extract.image_size_px",
        "train": "lower train.memory_limit_mb or RELEARN_THREADS",
    }.get(command, "end other programs")
    return f"out of memory; {advice}, raise the limits (ulimit -a), or use a larger machine"
