"""How ``ridges up`` waits for its processes."""

from ridges.cli.embedded.supervisor import SHORTEST_PAUSE_S, START_TIMEOUT_S, pause_s


def asked_at(until_s: float) -> list[float]:
    times = [0.0]
    while times[-1] < until_s:
        times.append(times[-1] + pause_s(times[-1]))
    return times


def test_a_process_that_takes_long_is_asked_seldom():
    """nats-server, which reads its log, writes a warning for each question: there were 30 a second."""
    assert len(asked_at(START_TIMEOUT_S)) < 80


def test_a_process_that_is_quick_is_found_ready_at_once():
    assert len(asked_at(0.3)) >= 10
    assert all(pause_s(waited_s) <= max(SHORTEST_PAUSE_S, waited_s / 10) for waited_s in asked_at(START_TIMEOUT_S))
