"""What went wrong -> what the log says and whether to try again: one table."""

import msgspec

from ridges.chassis.ports import BlobMissing, Clock
from ridges.contracts.faults import Cause
from ridges.sandbox_manager.agent_sandbox import BrokenWorkspace
from ridges.sandbox_manager.errors import ImageMissing, LimitsRefused, ProxyFailed, SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.technologies import ProcessNotAllowed


class Mishap(msgspec.Struct, frozen=True):
    """How an exception counts."""

    cause: Cause
    retry: bool


_TABLE: tuple[tuple[type[Exception], Mishap], ...] = (
    (SandboxUnavailable, Mishap(Cause.SANDBOX_UNAVAILABLE, retry=True)),
    (ProcessNotAllowed, Mishap(Cause.SANDBOX_UNAVAILABLE, retry=False)),
    (LimitsRefused, Mishap(Cause.LIMITS_REFUSED, retry=False)),
    (ImageMissing, Mishap(Cause.IMAGE_MISSING, retry=False)),
    (SandboxFailed, Mishap(Cause.SANDBOX_FAILED, retry=True)),
    (ProxyFailed, Mishap(Cause.SANDBOX_FAILED, retry=True)),
    (BrokenWorkspace, Mishap(Cause.PROBLEM_BROKEN, retry=False)),
    (BlobMissing, Mishap(Cause.PLATFORM_FAILED, retry=False)),
    (Exception, Mishap(Cause.PLATFORM_FAILED, retry=True)),
)


def mishap_of(error: Exception) -> Mishap:
    """The first row that fits."""
    return next(mishap for kind, mishap in _TABLE if isinstance(error, kind))


class Patience:
    """How long requests may wait for a machine that cannot serve them, counted from each one's first refusal."""

    def __init__(self, clock: Clock, wait_s: float) -> None:
        self._clock, self._wait_s = clock, wait_s
        self._first_refused: dict[str, float] = {}

    def lasts(self, key: str) -> bool:
        """Called at each refusal: whether to wait on."""
        now = self._clock.monotonic()
        return now - self._first_refused.setdefault(key, now) < self._wait_s

    def forget(self, key: str) -> None:
        """It was served, or given up."""
        self._first_refused.pop(key, None)
