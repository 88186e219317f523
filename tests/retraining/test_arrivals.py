import pytest

from relearn.retraining.arrivals import Arrival, Found, Left, Waiting, describe_left, describe_settling, list_unused


def test_what_is_said_of_files():
    left = [Left(f"{n}.png", "why") for n in range(5)]
    assert describe_left(left[:1], "left") == "1 file left: 0.png (why)"
    assert describe_left(left, "left") == "5 files left: 0.png (why), 1.png (why), 2.png (why), and 2 more"


def test_what_is_said_of_files_steers_no_terminal():
    told = describe_left([Left("0/gnp.\u202egnp", "no folder: \u2066x\x1b[2J")], "left in a\u202eb")
    assert told == r"1 file left in a\u202eb: 0/gnp.\u202egnp (no folder: \u2066x\u001b[2J)"


def test_what_landed_and_is_not_in_the_data():
    arrivals = [Arrival(Waiting(name, "x"), name, "0") for name in ("cat/1.png", "dog/1.png")]
    assert list_unused(arrivals, {"cat/1.png": "empty", "old.png": "empty"}) == [(arrivals[0], "empty")]


@pytest.mark.parametrize(("n_files", "begin"), [(1, "1 file waits in landing"), (12, "12 files wait in landing")])
def test_what_is_said_of_files_that_just_arrived(n_files, begin):
    found = Found([], [Left("a.png", "why")] * n_files, [], settled_at=1_700_000_000.2)
    assert describe_settling(found, "landing", 60) == (
        f"{begin} until 2023-11-14 22:13:20 UTC, 60 s after the last change (retrain.settle_seconds); "
        "`make retrain NOW=1` goes on at once"
    )
