import threading
import time

import pytest

from relearn.errors import ParamsError
from relearn.runtime.threads import Budget, count_threads, map_ahead, prefetch


def test_results_come_in_order():
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item

    assert list(map_ahead(slow_first, range(50), 8)) == list(range(50))


def test_input_is_read_only_so_far_ahead():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item, items(), 5)
    assert next(results) == 0
    assert len(taken) == 6
    results.close()


def test_first_failure_ends_the_iteration():
    def fail_at_three(item):
        if item == 3:
            raise ValueError("three")
        return item

    results = map_ahead(fail_at_three, range(100), 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_work_is_done_in_other_threads():
    assert threading.get_ident() not in set(map_ahead(lambda _: threading.get_ident(), range(4), 2))


def test_prefetched_items_come_in_order_and_no_further_ahead():
    made = []
    may_go_on = threading.Event()

    def items():
        for item in range(9):
            if item == 2:
                assert may_go_on.wait(10)
            made.append((item, threading.get_ident()))
            yield item

    results = prefetch(items(), 2)
    assert next(results) == 0  # while the third waits
    may_go_on.set()
    assert list(results) == list(range(1, 9))
    assert {thread for _, thread in made} != {threading.get_ident()}
    taken = []
    results = prefetch((taken.append(item) for item in range(9)), 2)
    next(results)
    results.close()
    assert len(taken) <= 3


def test_failure_of_what_is_prefetched_comes_in_its_place():
    def items():
        yield 0
        raise ValueError("one")

    results = prefetch(items(), 3)
    assert next(results) == 0
    with pytest.raises(ValueError, match="one"):
        next(results)
    assert list(prefetch([], 1)) == []


def test_number_of_threads_can_be_set(monkeypatch):
    for n_threads in (7, 1024):
        monkeypatch.setenv("RELEARN_THREADS", str(n_threads))
        assert count_threads() == n_threads
    for wrong in ("0", "-1", "many", "1.5", "1025", "100000", "9" * 5000):
        monkeypatch.setenv("RELEARN_THREADS", wrong)
        wanted = f"RELEARN_THREADS: wanted a whole number from 1 to 1,024, got '{wrong[:40]}'; unset it"
        with pytest.raises(ParamsError, match=wanted):
            count_threads()
    monkeypatch.setenv("RELEARN_THREADS", "")
    assert count_threads() >= 1


def test_budget_lets_so_much_through_and_what_is_larger_alone():
    budget = Budget(10)
    budget.acquire(6)
    passed = []

    def take(n_bytes):
        budget.acquire(n_bytes)
        passed.append(n_bytes)

    small = threading.Thread(target=take, args=(5,))
    small.start()
    small.join(0.05)
    assert passed == []
    budget.release(6)
    small.join(5)
    assert passed == [5]
    large = threading.Thread(target=take, args=(50,))
    large.start()
    large.join(0.05)
    assert passed == [5]
    budget.release(5)
    large.join(5)
    assert passed == [5, 50]
