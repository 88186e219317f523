import errno

import pytest

from relearn.commands.shortage import describe_shortage, is_shortage


def test_what_to_do_depends_on_the_command():
    for command, advice in {
        "finetune": "lower finetune.batch_size",
        "extract": "lower extract.batch_size",
        "train": "lower train.memory",
        "": "end other",
    }.items():
        assert describe_shortage(command).startswith(f"out of memory; {advice}")


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("can't start new thread"), True),
        (ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"), True),
        (ImportError("No module named x"), False),
    ],
)
def test_errors_that_mean_too_little_memory(error, wanted):
    assert is_shortage(error) is wanted
