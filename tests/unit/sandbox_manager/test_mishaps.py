"""How long requests wait for a machine that cannot serve them."""

from ridges.sandbox_manager.mishaps import Patience


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_request_waits_its_time_and_no_longer():
    clock = Clock()
    patience = Patience(clock, 30.0)
    assert patience.lasts("run")
    clock.now = 29.0
    assert (patience.lasts("run"), patience.lasts("other")) == (True, True)
    clock.now = 31.0
    assert (patience.lasts("run"), patience.lasts("other")) == (False, True)
    patience.forget("run")
    assert patience.lasts("run")


def test_nothing_is_kept_of_requests_that_do_not_come_again():
    """They were cancelled while they waited, or another manager has them."""
    clock = Clock()
    patience = Patience(clock, 30.0)
    for number in range(1_000):
        assert patience.lasts(f"run {number}")
        clock.now += 10.0
    assert patience.waiting < 100
