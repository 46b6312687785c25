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


_GONE_S = 600.0
"""Of a request that did not come again for so long after its time: it was cancelled, or another manager has it."""


class Patience:
    """How long requests may wait for a machine that cannot serve them, counted from each one's first refusal."""

    def __init__(self, clock: Clock, wait_s: float) -> None:
        self._clock, self._wait_s = clock, wait_s
        self._first_refused: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many it knows of."""
        return len(self._first_refused)

    def lasts(self, key: str) -> bool:
        """Called at each refusal: whether to wait on."""
        now = self._clock.monotonic()
        oldest = now - self._wait_s - _GONE_S
        self._first_refused = {each: at for each, at in self._first_refused.items() if at > oldest}
        return now - self._first_refused.setdefault(key, now) < self._wait_s

    def forget(self, key: str) -> None:
        """It was served, or given up."""
        self._first_refused.pop(key, None)
