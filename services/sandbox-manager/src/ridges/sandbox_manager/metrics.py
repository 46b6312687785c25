"""Figures for /metrics."""

import contextlib
from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from ridges.contracts.faults import Cause

_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 2400)


class Counted:
    """A start that is counted; once it is over its end is counted too, under ``end``."""

    end = "lost"
    """A cause, ``none`` (as it should), ``cancelled``, ``overtaken`` (another manager began it anew), ``lost``."""

    def told(self, cause: Cause | None) -> None:
        """Its end stands in the log."""
        self.end = cause or "none"


class ManagerMetrics:
    """Sandboxes: how many run, how long they take, how they end."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._running = Gauge("ridges_sandboxes_running", "Sandboxes at work", ("kind", "sandbox"), registry=registry)
        self._seconds = Histogram(
            "ridges_sandbox_seconds", "Wall time of sandboxes", ("kind", "sandbox"), buckets=_SECONDS, registry=registry
        )
        self._ended = Counter(
            "ridges_sandboxes_ended", "Sandboxes by cause; none = as it should", ("kind", "cause"), registry=registry
        )
        self._given_up = Counter(
            "ridges_requests_given_up", "What ended before a sandbox started", ("kind", "cause"), registry=registry
        )
        self._swept = Counter("ridges_leftovers_swept", "Leftovers removed by sweeps", registry=registry)
        self._started = Counter(
            "ridges_sandboxes_started", "Sandboxes that began", ("kind", "sandbox"), registry=registry
        )
        self._slots = Gauge("ridges_sandbox_slots", "Sandboxes at once, at most", ("kind",), registry=registry)
        self._waiting = Gauge("ridges_runs_waiting", "Runs claimed here that wait for a slot", registry=registry)
        self._given_back = Counter("ridges_runs_given_back", "Claimed runs that got no slot in time", registry=registry)

    @contextlib.contextmanager
    def sandbox(self, kind: str, sandbox: str) -> Iterator[Counted]:
        """From the start of a sandbox until its end is told: started = running + ended, whatever ends it."""
        counted = Counted()
        self._started.labels(kind, sandbox).inc()
        with self._running.labels(kind, sandbox).track_inprogress():
            try:
                yield counted
            finally:
                self._ended.labels(kind, counted.end).inc()

    @contextlib.contextmanager
    def timed(self, kind: str, sandbox: str) -> Iterator[None]:
        """The sandbox itself."""
        with self._seconds.labels(kind, sandbox).time():
            yield

    def given_up(self, kind: str, cause: Cause) -> None:
        """Its end stands in the log, and no sandbox was started for it."""
        self._given_up.labels(kind, cause).inc()

    def slots(self, kind: str, count: int) -> None:
        self._slots.labels(kind).set(count)

    def waiting(self, count: Callable[[], int]) -> None:
        self._waiting.set_function(count)

    def given_back(self) -> None:
        self._given_back.inc()

    def swept(self, count: int) -> None:
        self._swept.inc(count)
