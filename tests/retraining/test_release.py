import os
import threading
import time
from pathlib import Path

import pytest

from relearn.errors import IntegrityError
from relearn.retraining.release import find_current, keep_version, list_versions, switch_current


def write(number):
    return dict.fromkeys(("head.onnx", "classifier.json"), f"{number}\n".encode() * 1000)


@pytest.fixture
def release(tmp_path):
    for number in range(1, 12):
        keep_version(tmp_path / "release", write(number), f"v{number}")
    return tmp_path / "release"


def test_versions_are_in_the_order_of_their_numbers(release):
    assert list_versions(release) == [f"v{number}" for number in range(1, 12)]
    assert list_versions(release / "nowhere") == []


def test_nothing_is_in_use_until_it_is_switched_to(release):
    assert find_current(release) is None
    switch_current(release, "v2")
    switch_current(release, "v11")
    assert find_current(release) == "v11"
    assert (release / "current" / "head.onnx").read_text() == "11\n" * 1000
    assert sorted(path.name for path in release.iterdir()) == ["current", "versions"]


def test_a_version_is_never_written_over(release):
    keep_version(release, write(1), "v1")
    with pytest.raises(IntegrityError, match="versions/v1: wanted the classifier that is recorded as v1, got another"):
        keep_version(release, write(2), "v1")
    assert (release / "versions" / "v1" / "head.onnx").read_text() == "1\n" * 1000


def test_what_is_not_there_is_told(release):
    with pytest.raises(IntegrityError, match=r"release/versions: wanted v12, got v1, v2, .*, v11"):
        switch_current(release, "v12")
    (release / "current").symlink_to("versions/v77")
    with pytest.raises(
        IntegrityError, match=r"release/current: wanted a link to one of .*, got v77; `relearn rollback`"
    ):
        find_current(release)
    (release / "current").unlink()
    (release / "current").mkdir()
    with pytest.raises(IntegrityError, match="got something else"):
        find_current(release)


def test_a_reader_never_sees_half(release):
    """One thread switches, another opens the folder once and reads both files from it."""
    switch_current(release, "v1")
    ended = threading.Event()

    def switch():
        while not ended.is_set():
            for number in range(1, 12):
                switch_current(release, f"v{number}")

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        seen, n_read, end = set(), 0, time.monotonic() + 60
        while n_read < 200 or (len(seen) == 1 and time.monotonic() < end):
            n_read += 1
            folder = os.open(release / "current", os.O_RDONLY)
            texts = []
            for name in ("head.onnx", "classifier.json"):
                with open(os.open(name, os.O_RDONLY, dir_fd=folder)) as file:
                    texts.append(file.read())
            os.close(folder)
            assert texts[0] == texts[1]
            assert len(texts[0].splitlines()) == 1000
            seen.add(texts[0])
    finally:
        ended.set()
        thread.join()
    assert len(seen) > 1
    assert not list(Path(release).glob(".*"))
