"""Providers at run time: reloads under calls in flight, single probes, and what is told when nobody is usable."""

import asyncio
import random

import pytest
from unit.gateway.support import CLOCK, ScriptedProvider, model, provider

from ridges.gateway import choice
from ridges.gateway.providers_config import ConfigError, ProvidersConfig
from ridges.gateway.roster import NoneUsable, Roster


class Closable(ScriptedProvider):
    closed = 0

    async def close(self):
        self.closed += 1


class Made:
    """Makes adapters and remembers them, newest last."""

    def __init__(self):
        self.adapters = []

    def __call__(self, known):
        if known.name == "unmakeable":
            raise ConfigError("no")
        self.adapters.append(Closable())
        return self.adapters[-1]


def config(*providers):
    return ProvidersConfig(providers=providers, price_list="test")


def roster_of(*providers, make=None):
    return Roster(config(*providers), make or Made(), CLOCK, random.Random(0))


async def take(roster, deadline_s=0.05):
    return await roster.take(roster.offers("m", "chat"), set(), CLOCK.monotonic() + deadline_s, "run")


async def test_a_replaced_provider_is_closed_when_its_last_call_has_ended():
    make = Made()
    roster = roster_of(provider("p"), make=make)
    turn = await take(roster)
    roster.replace(config(provider("p", weight=2.0)), make)
    old, new = make.adapters
    await asyncio.sleep(0)
    assert (turn.adapter, old.closed) == (old, 0), "the call in flight goes on"
    turn.give_back()
    turn.give_back()
    await asyncio.sleep(0)
    assert old.closed == 1
    assert (await take(roster)).adapter is new
    await roster.close()
    assert new.closed == 1


async def test_a_replaced_provider_stays_open_for_a_call_that_was_admitted_and_has_no_turn_yet():
    make = Made()
    roster = roster_of(provider("p"), make=make)
    offers = roster.offers("m", "chat")
    roster.hold(offers)
    roster.replace(config(provider("p", weight=2.0)), make)
    old = make.adapters[0]
    turn = await roster.take(offers, set(), CLOCK.monotonic() + 5, "r")
    turn.give_back()
    await asyncio.sleep(0)
    assert (turn.adapter, old.closed) == (old, 0)
    roster.release(offers)
    await asyncio.sleep(0)
    assert old.closed == 1


async def test_a_provider_that_stays_as_it_is_keeps_its_connections_and_health():
    make = Made()
    roster = roster_of(provider("p"), make=make)
    turn = await take(roster)
    turn.asked_for_patience(30)
    turn.give_back()
    roster.replace(config(provider("p"), provider("other", model("other"))), make)
    assert len(make.adapters) == 2
    assert make.adapters[0].closed == 0
    with pytest.raises(NoneUsable):
        await take(roster)
    assert roster.offers("other", "chat")


async def test_a_configuration_that_cannot_be_made_changes_nothing():
    make = Made()
    roster = roster_of(provider("p"), make=make)
    with pytest.raises(ConfigError):
        roster.replace(config(provider("fresh"), provider("unmakeable")), make)
    await asyncio.sleep(0)
    assert (await take(roster)).offer.provider.name == "p"
    assert [adapter.closed for adapter in make.adapters] == [0, 1], "what was made in vain is closed"


async def test_one_probe_at_a_time_also_when_late_failures_of_older_calls_come_in():
    roster = roster_of(provider("p"))
    turns = [await take(roster) for _ in range(choice.FAILURES_TO_OPEN + 3)]
    for turn in turns[: choice.FAILURES_TO_OPEN]:
        turn.went_wrong()
    seat = turns[0].offer.seat
    resting = seat.health
    for turn in turns[choice.FAILURES_TO_OPEN :]:
        turn.went_wrong()
        turn.said_nothing()
    assert seat.health == resting, "calls that began before do not prolong the rest"
    seat.health = choice.Health(failures=choice.FAILURES_TO_OPEN, rest_until=CLOCK.monotonic())
    probe = await take(roster)
    turns[-1].went_wrong()
    turns[-1].asked_for_patience(0)
    with pytest.raises(NoneUsable):
        await take(roster)
    probe.went_well()
    assert (await take(roster)).offer.seat.health == choice.Health(cool_until=seat.health.cool_until)


async def test_a_waiting_call_does_not_go_to_a_provider_that_broke_meanwhile():
    roster = roster_of(provider("p", max_concurrency=1), provider("q", weight=1e-9, max_concurrency=1))
    first, second = await take(roster), await take(roster)
    waiting = asyncio.create_task(take(roster, 5))
    await asyncio.sleep(0)
    (slow,) = [turn for turn in (first, second) if turn.offer.provider.name == "p"]
    (other,) = [turn for turn in (first, second) if turn is not slow]
    for _ in range(choice.FAILURES_TO_OPEN):
        slow.went_wrong()
    slow.give_back()
    await asyncio.sleep(0)
    other.give_back()
    assert (await asyncio.wait_for(waiting, 1)).offer.provider.name == "q"


async def test_when_every_queue_is_full_callers_are_told_at_once():
    roster = roster_of(provider("p", max_concurrency=1, max_queue=0))
    turn = await take(roster)
    with pytest.raises(NoneUsable) as caught:
        await take(roster, 60)
    assert caught.value.usable_in_s == 1.0
    turn.give_back()
    assert await take(roster)
