"""Threads share memory: no more of it is held than there is, each gets its turn, and none waits for nobody."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from captioner.data.images.budget import Budget, hand_back


def test_no_more_is_held_than_there_is():
    budget, most = Budget(10), []

    def use(num_bytes):
        with budget.hold(num_bytes):
            most.append(budget.held)
            time.sleep(0.001)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(use, [3, 4, 5, 6, 1] * 20))
    assert len(most) == 100
    assert 6 < max(most) <= 10
    assert (budget.held, len(budget.waiting)) == (0, 0)


def start(budget, num_bytes, order, let_go):
    """A thread that holds some bytes until it is told to let go."""

    def use():
        with budget.hold(num_bytes):
            order.append(num_bytes)
            let_go.wait(20)

    thread = threading.Thread(target=use)
    thread.start()
    return thread


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_share_larger_than_all_is_held_alone_and_in_its_turn():
    budget, order = Budget(10), []
    events = [threading.Event() for _ in range(3)]
    threads = [start(budget, 4, order, events[0])]
    wait_for(lambda: order == [4])
    threads.append(start(budget, 50, order, events[1]))
    wait_for(lambda: len(budget.waiting) == 1)
    threads.append(start(budget, 5, order, events[2]))  # there would be room, but it came later
    wait_for(lambda: len(budget.waiting) == 2)
    assert order == [4]
    events[0].set()
    wait_for(lambda: order == [4, 50])
    assert budget.held == 50
    events[1].set()
    wait_for(lambda: order == [4, 50, 5])
    events[2].set()
    for thread in threads:
        thread.join(20)
    assert budget.held == 0


def test_what_fails_lets_go():
    budget = Budget(10)
    with pytest.raises(ZeroDivisionError), budget.hold(10):
        1 / 0  # noqa: B018
    with budget.hold(10):
        pass


def take_all(budget, has_taken):
    with budget.hold(10):
        has_taken.set()


def test_a_child_starts_with_all_of_it():
    """The threads that held some are not there."""
    context = multiprocessing.get_context("fork")
    budget, has_taken = Budget(10), context.Event()
    with budget.hold(10):
        child = context.Process(target=take_all, args=(budget, has_taken))
        child.start()
        assert has_taken.wait(20)
        child.join(20)
        assert budget.held == 10


def test_what_is_taken_is_held_until_it_is_given_back():
    budget = Budget(10)
    assert [budget.take(num_bytes) for num_bytes in (6, 5, 4, 1)] == [True, False, True, False]
    budget.give_back(6)
    with budget.hold(6):
        assert not budget.take(1)
    budget.give_back(4)
    assert budget.take(50)  # alone


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_memory_is_handed_back_where_it_can_be(platform, monkeypatch):
    monkeypatch.setattr("sys.platform", platform)
    hand_back()
