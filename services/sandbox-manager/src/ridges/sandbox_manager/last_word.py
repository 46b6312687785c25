"""What the model calls of an attempt say about its end. Pure: events in, a cause or none out."""

from collections.abc import Iterable

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause

_ENDS_OF_AGENTS = frozenset(
    {
        Cause.AGENT_RAISED,
        Cause.AGENT_EXITED,
        Cause.AGENT_RETURNED_NO_PATCH,
        Cause.AGENT_TIMED_OUT,
        Cause.PATCH_EMPTY,
        Cause.PATCH_INVALID,
    }
)
"""Ends that follow from having no model. Memory, a file that cannot be imported, a forged output do not."""
_PROVIDER_OUTCOMES = frozenset({"connect_error", "timeout", "malformed", "cut"})
_PROVIDER_STATUSES = frozenset({401, 402, 403, 408, 429})
"""Of a provider's 4xx those that are about the provider (or our account there), not about what the agent asked."""
_CALLER_GONE = 499
_NOBODY_TO_ASK = 503


def blamed(cause: Cause, events: Iterable[ev.AnyEvent], attempt: int) -> Cause:
    """The cause of an attempt that ended without a returned patch: the agent's, unless it had lost its models.

    When the last word about the attempt's model calls was a refusal for cost, it is ``BUDGET_SPENT``; when it was a
    failure of the providers, ``PROVIDER_FAILED``; a later answer takes either back.
    """
    if cause not in _ENDS_OF_AGENTS:
        return cause
    return last_word(events, attempt) or cause


def last_word(events: Iterable[ev.AnyEvent], attempt: int) -> Cause | None:
    """What stood between the attempt and its models at its end; None = nothing."""
    word: Cause | None = None
    current = 0
    for event in events:
        if isinstance(event, ev.AgentStarted):
            current, word = event.attempt, None
        elif isinstance(event, ev.InferenceMade):
            word = None
        elif isinstance(event, ev.InferenceRefused) and event.reason == "cost":
            word = Cause.BUDGET_SPENT
        elif isinstance(event, ev.InferenceFailed) and not _abandoned(event):
            word = Cause.PROVIDER_FAILED if _by_provider(event) else None
    return word if current == attempt else None


def _abandoned(failed: ev.InferenceFailed) -> bool:
    """The caller left, or the gateway was lost: it says nothing about providers."""
    last = failed.attempts[-1] if failed.attempts else None
    return failed.status == _CALLER_GONE or (last is not None and last.outcome == "abandoned")


def _by_provider(failed: ev.InferenceFailed) -> bool:
    if not failed.attempts:  # none could be asked
        return failed.status == _NOBODY_TO_ASK
    last = failed.attempts[-1]
    if last.outcome == "http_error" and last.status is not None:
        return last.status >= 500 or last.status in _PROVIDER_STATUSES or last.status < 400
    return last.outcome in _PROVIDER_OUTCOMES
