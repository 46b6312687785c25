"""Which provider gets the next attempt. Pure: a circuit breaker as a state machine, and a weighted random draw.

A provider is healthy until ``FAILURES_TO_OPEN`` failures in a row; then it rests, doubling from ``FIRST_REST_S``;
after the rest one single probe decides (attempts that began earlier and fail late do not count again). A 429 is no
failure: the provider rests for as long as its Retry-After says.
"""

import random
from collections.abc import Sequence

import msgspec

FAILURES_TO_OPEN = 5
FIRST_REST_S = 5.0
LONGEST_REST_S = 60.0
DEFAULT_COOLDOWN_S = 1.0
LONGEST_COOLDOWN_S = 3600.0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one provider. Times are monotonic seconds."""

    failures: int = 0
    """In a row."""
    rest_until: float = 0.0
    """The breaker is open until then; afterwards half-open until a probe ends."""
    cool_until: float = 0.0
    """The provider asked for patience until then."""
    probing: bool = False


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that serves the model."""

    name: str
    weight: float
    health: Health
    free_slots: int


def is_open(health: Health) -> bool:
    return health.failures >= FAILURES_TO_OPEN


def usable(health: Health, now: float) -> bool:
    """May an attempt start now?"""
    if now < health.cool_until:
        return False
    return not is_open(health) or (now >= health.rest_until and not health.probing)


def started(health: Health) -> Health:
    """An attempt starts; in the half-open state it is the one probe."""
    return msgspec.structs.replace(health, probing=True) if is_open(health) else health


def succeeded(health: Health) -> Health:
    """The provider works. Patience that it asked for, of another call, stands."""
    return Health(cool_until=health.cool_until)


def failed(health: Health, now: float, *, decides: bool = True) -> Health:
    """``decides``: while the breaker is open, only its probe does."""
    if is_open(health) and not decides:
        return health
    failures = health.failures + 1
    rest_s = min(FIRST_REST_S * 2.0 ** max(0, failures - FAILURES_TO_OPEN), LONGEST_REST_S)
    rest_until = now + rest_s if failures >= FAILURES_TO_OPEN else 0.0
    return msgspec.structs.replace(health, failures=failures, rest_until=rest_until, probing=False)


def told_to_wait(health: Health, now: float, retry_after_s: float | None) -> Health:
    """A 429 (or a 503 with Retry-After). It ends a probe, which has shown nothing but that somebody is there."""
    wait_s = min(DEFAULT_COOLDOWN_S if retry_after_s is None else retry_after_s, LONGEST_COOLDOWN_S)
    return msgspec.structs.replace(health, cool_until=max(health.cool_until, now + wait_s), probing=False)


def left_undecided(health: Health) -> Health:
    """An attempt ended without saying anything about the provider (the caller left; a bad request)."""
    return msgspec.structs.replace(health, probing=False)


def usable_in_s(health: Health, now: float) -> float:
    """Seconds until an attempt may start; for a half-open provider the time a probe usually takes."""
    rest_s = max(health.rest_until - now, 1.0) if is_open(health) else 0.0
    return max(health.cool_until - now, rest_s, 0.0)


def choose(candidates: Sequence[Candidate], now: float, rng: random.Random) -> Candidate | None:
    """A weighted random draw among the healthy; those with a free slot go before those without."""
    healthy = [candidate for candidate in candidates if usable(candidate.health, now)]
    free = [candidate for candidate in healthy if candidate.free_slots > 0]
    pool = free or healthy
    if not pool:
        return None
    return rng.choices(pool, weights=[candidate.weight for candidate in pool])[0]
