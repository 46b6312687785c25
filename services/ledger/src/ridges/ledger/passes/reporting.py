"""How far a pass is and how it ended: what the passes report, and the lines on which their process does."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import msgspec

from ridges.contracts.views import MigrationResult, PassProgress, PassResult

PassName = Literal["rebuild", "verify", "archive", "restore"]
Stage = PassName | Literal["migrate"]
Report = Callable[[PassProgress], None]
Chunk = TypeVar("Chunk", bound=list)  # type: ignore[type-arg]
REPORT_EVERY_S = 0.25


class PassFailed(Exception):
    """The pass could not reach its end; the message says at which event, and what to do."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of JSON on the stdout of a pass."""

    progress: PassProgress | None = None
    result: PassResult | None = None
    migration: MigrationResult | None = None


class Pace:
    """Counts, measures and reports now and then."""

    def __init__(self, what: Stage, phase: str, total: int, report: Report) -> None:
        self._what, self._phase, self._total, self._report = what, phase, total, report
        self._started = self._reported = time.monotonic()
        self.done = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, count: int) -> None:
        """Count what was done; reports at most four times a second."""
        self.done += count
        now = time.monotonic()
        if now - self._reported >= REPORT_EVERY_S:
            self._reported = now
            self.report()

    def report(self) -> None:
        """Report now."""
        rate = self.done / max(self.seconds, 1e-6)
        left = self._total - self.done
        self._report(
            PassProgress(
                what=self._what,
                phase=self._phase,
                done=self.done,
                total=self._total,
                rate_per_s=round(rate, 1),
                eta_s=round(left / rate, 1) if rate > 0 else None,
            )
        )

    def over(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The chunks, counted once each is worked off."""
        for chunk in chunks:
            yield chunk
            self.add(len(chunk))
        self.report()
