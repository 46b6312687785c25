"""Choice among providers: weights, breaker, patience. Times are given, nothing sleeps."""

import random
from collections import Counter

from ridges.gateway import choice
from ridges.gateway.choice import Candidate, Health


def candidate(name, weight=1.0, health=None, free_slots=1):
    return Candidate(name=name, weight=weight, health=health or Health(), free_slots=free_slots)


def broken(now=0.0, failures=choice.FAILURES_TO_OPEN):
    health = Health()
    for _ in range(failures):
        health = choice.failed(health, now)
    return health


def test_the_draw_follows_the_weights():
    rng = random.Random(1)
    drawn = Counter(choice.choose([candidate("a", 3), candidate("b", 1)], 0, rng).name for _ in range(4000))
    assert 0.72 < drawn["a"] / 4000 < 0.78


def test_fewer_failures_than_the_threshold_change_nothing():
    assert choice.usable(broken(failures=choice.FAILURES_TO_OPEN - 1), 0)


def test_the_breaker_opens_then_lets_one_probe_through():
    health = broken(now=100)
    assert not choice.usable(health, 100)
    assert choice.usable(health, 100 + choice.FIRST_REST_S)
    probing = choice.started(health)
    assert not choice.usable(probing, 1e9), "a second call must not start while the probe runs"
    assert choice.usable(choice.left_undecided(probing), 1e9)
    assert choice.succeeded(probing) == Health()


def test_each_failed_probe_doubles_the_rest_up_to_a_bound():
    health, rests = broken(), []
    for _ in range(8):
        rests.append(health.rest_until)
        health = choice.failed(choice.started(health), 0)
    assert rests[:3] == [5.0, 10.0, 20.0]
    assert rests[-1] == choice.LONGEST_REST_S


def test_patience_asked_for_is_given():
    health = choice.told_to_wait(Health(), 10, 7)
    assert not choice.usable(health, 16.9)
    assert choice.usable(health, 17)
    assert choice.usable_in_s(health, 12) == 5
    assert health.failures == 0
    assert choice.succeeded(health) == health, "a call that was in flight does not end the patience"


def test_patience_without_a_time_is_short_and_never_endless():
    assert choice.told_to_wait(Health(), 0, None).cool_until == choice.DEFAULT_COOLDOWN_S
    assert choice.told_to_wait(Health(), 0, 1e9).cool_until == choice.LONGEST_COOLDOWN_S


def test_full_providers_come_last_and_broken_ones_never():
    rng = random.Random(0)
    full, free = candidate("full", free_slots=0), candidate("free")
    assert {choice.choose([full, free], 0, rng).name for _ in range(50)} == {"free"}
    assert choice.choose([full], 0, rng).name == "full"
    assert choice.choose([candidate("x", health=broken())], 0, rng) is None
