"""Calls with an Idempotency-Key: whoever leaves and whatever fails, one answer is one bill."""

import asyncio
from contextlib import aclosing

import pytest
from unit.gateway.support import ScriptedProvider, World, chat, chunk, completion, events_of, provider, until, usage

from ridges.chassis.ports import EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.gateway import errors, idempotency_keys, keyed_calls
from ridges.gateway.ports import ProviderReply

DONE = b"data: [DONE]\n\n"


def keyed(**changes):
    return chat(idempotency_key="k", **changes)


class FailsSlowlyOnce(ScriptedProvider):
    async def send(self, path, body, timeout_s, *, traceparent=None):
        reply = await super().send(path, body, timeout_s)
        if len(self.bodies) > 1:
            return reply
        await asyncio.sleep(0.2)
        return ProviderReply(status=500, body=b"boom")


async def ask(world, run_id, gateway=0):
    return (await world.gateways[gateway].calls.complete(run_id, keyed(), len))[0]


async def test_a_retry_that_meets_a_failing_call_elsewhere_is_a_new_call():
    """Not a 409: the key is free as soon as the first call has failed."""
    only = FailsSlowlyOnce()
    async with World((provider(), only)).running(2) as world:
        run_id = await world.run()
        asking = asyncio.create_task(ask(world, run_id, 0))
        await until(lambda: only.bodies)
        retry = asyncio.create_task(ask(world, run_id, 1))
        with pytest.raises(errors.ProviderFailed):
            await asking
        assert await retry == completion().body
        assert len(await world.events(run_id, ev.InferenceFailed)) == 1
        assert len(await world.events(run_id, ev.InferenceMade)) == 1


async def test_a_caller_that_leaves_and_asks_again_pays_once():
    script = ScriptedProvider(lambda _: 0.2)
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        leaving = asyncio.create_task(ask(world, run_id))
        await until(lambda: script.open)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert script.open == 1, "the call goes on"
        assert await ask(world, run_id) == completion().body
        assert len(script.bodies) == len(await world.events(run_id, ev.InferenceMade)) == 1
        assert await world.events(run_id, ev.InferenceFailed) == []


async def test_a_stream_is_given_again_from_its_beginning_while_it_goes_on():
    script = ScriptedProvider(lambda _: [chunk("Hel"), 0.2, chunk("lo"), chunk(finish="stop", usage=usage()), DONE])
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        calls = world.gateways[0].calls
        async with aclosing(events_of(calls, run_id, keyed(streamed=True))) as events:
            first = await anext(events)
        again = [part async for part in events_of(calls, run_id, keyed(streamed=True))]
        assert (again[0], again[-1]) == (first, DONE)
        assert b"lo" in b"".join(again)
        assert len(script.bodies) == len(await world.events(run_id, ev.InferenceMade)) == 1


async def test_a_key_that_is_no_longer_kept_is_found_in_the_log(monkeypatch):
    monkeypatch.setattr(idempotency_keys, "MOST_KEPT", 2)
    script = ScriptedProvider(lambda body: completion(f"answer {len(script.bodies)}"))
    async with World((provider(), script)).running(2) as world:
        run_id = await world.run(max_requests=6)

        async def asked(key, gateway=0, received=b"{}"):
            call = chat(idempotency_key=key, received=received)
            return (await world.gateways[gateway].calls.complete(run_id, call, len))[0]

        answers = {key: await asked(key) for key in "abcdef"}
        assert len(set(answers.values())) == len(script.bodies) == 6
        for key, gateway in (("a", 0), ("b", 0), ("a", 1), ("f", 1), ("a", 0)):
            assert await asked(key, gateway) == answers[key], "also when the budget of requests is spent"
        with pytest.raises(errors.KeyReused):
            await asked("c", received=b"another")
        view = await world.gateways[0].states.view(run_id)
        assert len(view.spending.keys) == 2
        assert len(script.bodies) == len(await world.events(run_id, ev.InferenceMade)) == 6


async def test_a_key_that_must_be_looked_up_is_refused_while_the_log_is_away(monkeypatch):
    monkeypatch.setattr(idempotency_keys, "MOST_KEPT", 1)
    async with World().running() as world:
        run_id = await world.run()
        for key in ("a", "b"):
            await world.gateways[0].calls.complete(run_id, chat(idempotency_key=key), len)

        async def away(_):
            raise EventStoreUnavailable("away")

        monkeypatch.setattr(world.store, "read_run", away)
        with pytest.raises(errors.LogUnavailable):
            await world.gateways[0].calls.complete(run_id, chat(idempotency_key="a"), len)


async def test_only_so_many_calls_go_on_without_a_caller(monkeypatch):
    monkeypatch.setattr(keyed_calls, "MOST_LEFT_ALONE", 0)
    script = ScriptedProvider(lambda _: 30.0)
    async with World((provider(timeout_s=60), script)).running() as world:
        run_id = await world.run()
        leaving = asyncio.create_task(ask(world, run_id))
        await until(lambda: script.open)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await until(lambda: not script.open)
        await world.pipeline.drain()
        (failed,) = await world.events(run_id, ev.InferenceFailed)
    assert failed.status == 499


async def test_those_that_wait_for_a_call_that_fails_get_its_failure_too():
    only = FailsSlowlyOnce()
    async with World((provider(), only)).running() as world:
        run_id = await world.run()
        replies = await asyncio.gather(*(ask(world, run_id) for _ in range(3)), return_exceptions=True)
        assert [type(reply) for reply in replies] == [errors.ProviderFailed] * 3
        assert await ask(world, run_id) == completion().body
