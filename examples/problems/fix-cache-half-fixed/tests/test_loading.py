from threading import Barrier, Event, Thread
from time import monotonic, sleep

import pytest

from hotshelf import LoadingShelf, ManualClock

PATIENCE_S = 3.0


class BackendDown(Exception):
    pass


@pytest.fixture
def shelf() -> LoadingShelf:
    return LoadingShelf(capacity=10, ttl_s=60, clock=ManualClock())


def in_thread(function, *arguments) -> tuple[Thread, list]:
    """Run a function in a thread of its own; its value or exception comes in the list."""
    outcome: list = []

    def run():
        try:
            outcome.append(function(*arguments))
        except Exception as error:
            outcome.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def outcomes(threads: list[tuple[Thread, list]]) -> list:
    give_up_at = monotonic() + PATIENCE_S
    for thread, _ in threads:
        thread.join(max(0.0, give_up_at - monotonic()))
    assert all(outcome for _, outcome in threads), "a call hangs"
    return [outcome[0] for _, outcome in threads]


def outcome_of(function, *arguments):
    return outcomes([in_thread(function, *arguments)])[0]


def fail(key):
    raise BackendDown(key)


def test_failed_load_can_be_tried_again(shelf):
    assert isinstance(outcome_of(shelf.get_or_load, "apple", fail), BackendDown)
    assert isinstance(outcome_of(shelf.get_or_load, "apple", fail), BackendDown)
    assert outcome_of(shelf.get_or_load, "apple", str.upper) == "APPLE"
    assert len(shelf) == 1


def test_waiting_threads_get_the_error_of_the_failed_load(shelf):
    started, let_go, calls, asked = Event(), Event(), [], []

    def load(key):
        calls.append(key)
        started.set()
        let_go.wait(PATIENCE_S)
        raise BackendDown(key)

    threads = [in_thread(shelf.get_or_load, "apple", load)]
    assert started.wait(PATIENCE_S)

    def ask():
        asked.append("apple")
        return shelf.get_or_load("apple", load)

    threads += [in_thread(ask) for _ in range(4)]
    while len(asked) < 4:
        sleep(0.01)
    sleep(0.3)
    let_go.set()
    assert [type(error) for error in outcomes(threads)] == [BackendDown] * 5
    assert calls == ["apple"]


class SlowKey(str):
    """Takes its time from the second look-up on, so that a check and the step after it are far apart."""

    lookups = 0

    def __hash__(self):
        self.lookups += 1
        if self.lookups > 1:
            sleep(0.05)
        return super().__hash__()


def test_one_load_for_many_threads(shelf):
    threads_number = 6
    together, calls = Barrier(threads_number), []

    def load(key):
        calls.append(key)
        sleep(0.1)
        return key.upper()

    def ask():
        together.wait(PATIENCE_S)
        return shelf.get_or_load(SlowKey("apple"), load)

    threads = [in_thread(ask) for _ in range(threads_number)]
    assert outcomes(threads) == ["APPLE"] * threads_number
    assert len(calls) == 1


def test_loads_of_different_keys_run_side_by_side(shelf):
    both = Barrier(2)

    def load(key):
        both.wait(PATIENCE_S)
        return key.upper()

    threads = [in_thread(shelf.get_or_load, key, load) for key in ("apple", "pear")]
    assert outcomes(threads) == ["APPLE", "PEAR"]


def test_loaded_value_is_kept(shelf):
    assert shelf.get_or_load("apple", str.upper) == "APPLE"
    assert shelf.get_or_load("apple", fail) == "APPLE"
    assert shelf.get("apple") == "APPLE"


def test_expired_value_is_loaded_again():
    clock = ManualClock()
    shelf = LoadingShelf(capacity=10, ttl_s=60, clock=clock)
    assert shelf.get_or_load("apple", lambda _: 1) == 1
    clock.advance(60)
    assert shelf.get_or_load("apple", lambda _: 2) == 2


def test_none_is_a_value(shelf):
    assert shelf.get_or_load("apple", lambda _: None) is None
    assert shelf.get_or_load("apple", fail) is None
