"""Why model calls of a run had no answer: refused by a limit, failed at the providers. Told by reason, with counts."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from ridges.cli.client import LedgerClient
from ridges.contracts.events import InferenceAttempt, InferenceFailed, InferenceRefused
from ridges.contracts.views import EventRow, RunDetail

NO_ATTEMPT = "no_provider"
_WORDS = {
    "cost": "over the cost limit",
    "requests": "over the limit of model calls",
    "tokens": "over the token limit",
    "concurrency": "too many calls at once",
    "model": "no provider serves the model",
    "price": "the model has no price",
    "identity": "the body named another run",
    "state": "the run was not running",
    "connect_error": "the provider cannot be reached",
    "timeout": "the provider did not answer in time",
    "malformed": "the provider's answer made no sense",
    "cut": "the provider broke off its answer",
    "abandoned": "the agent did not wait for the answer",
    NO_ATTEMPT: "no provider was asked",
}


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """Model calls of one run that had no answer for one reason."""

    outcome: Literal["refused", "failed"]
    reason: str
    """A reason of InferenceRefused, else how the last attempt at a provider ended."""
    status: int
    """HTTP status the agent got, of the newest."""
    calls: int
    detail: str
    """Of the newest."""

    @property
    def words(self) -> str:
        """The reason for people."""
        if self.reason == "http_error":
            return f"the provider answered HTTP {self.status}"
        return _WORDS.get(self.reason, self.reason)


def unanswered_calls(client: LedgerClient, run: RunDetail) -> tuple[Unanswered, ...]:
    """Those of a run, most frequent first. Reads the run's events only when there are any."""
    if run.requests_refused + run.requests_failed == 0:
        return ()
    return by_reason(client.events(run.run_id))


def by_reason(rows: Iterable[EventRow]) -> tuple[Unanswered, ...]:
    """The calls without an answer among a run's events (oldest first), most frequent reason first."""
    found: dict[tuple[str, str, int], Unanswered] = {}
    for row in rows:
        match row.event:
            case InferenceRefused(reason=reason, status=status, detail=detail):
                newest = Unanswered(outcome="refused", reason=reason, status=status, calls=1, detail=detail)
            case InferenceFailed(attempts=attempts, status=status, detail=detail):
                newest = Unanswered(
                    outcome="failed",
                    reason=attempts[-1].outcome if attempts else NO_ATTEMPT,
                    status=status,
                    calls=1,
                    detail=_told(detail, attempts),
                )
            case _:
                continue
        key = (newest.outcome, newest.reason, newest.status if newest.reason == "http_error" else 0)
        before = found.pop(key).calls if key in found else 0
        found[key] = msgspec.structs.replace(newest, calls=before + 1)
    return tuple(sorted(found.values(), key=lambda each: -each.calls))


def _told(detail: str, attempts: tuple[InferenceAttempt, ...]) -> str:
    """What the agent was told, with the provider's own words where it left them out."""
    last = attempts[-1].detail if attempts else None
    return detail if not last or last in detail else f"{detail} ({last})"
