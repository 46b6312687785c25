"""Streamed calls: the same bill as buffered ones, honest endings."""

import asyncio

import msgspec
import pytest
from unit.gateway.support import (
    UNREACHABLE,
    ScriptedProvider,
    World,
    chat,
    chunk,
    completion,
    events_of,
    provider,
    until,
    usage,
)

from ridges.contracts import events as ev
from ridges.gateway import errors
from ridges.gateway.ports import AnswerCut, ProviderReply, ProviderTooSlow
from ridges.gateway.token_estimate import count_tokens

DONE = b"data: [DONE]\n\n"
WHOLE = [chunk("Hel"), chunk("lo"), chunk(finish="stop"), chunk(usage=usage(), choices=False), DONE]


def streamed(**changes):
    return chat(streamed=True, **changes)


async def collect(world, run_id, call=None):
    return [events async for events in events_of(world.pipeline, run_id, call or streamed())]


async def test_a_stream_costs_what_the_buffered_call_costs():
    script = ScriptedProvider(lambda body: WHOLE if body.get("stream_options") else completion("Hello"))
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        await collect(world, run_id)
        await world.pipeline.complete(run_id, chat(), lambda body: body)
        first, second = await world.events(run_id, ev.InferenceMade)
    assert first.streamed
    assert (first.usage, first.cost_nano_usd) == (second.usage, second.cost_nano_usd)
    assert first.attempts[0].first_token_ms is not None
    assert b"Hel" in world.blobs.contents[first.reply.digest]


async def test_the_settlement_is_durable_before_done():
    async with World((provider(), ScriptedProvider(lambda _: WHOLE))).running() as world:
        run_id = await world.run()
        async for events in events_of(world.pipeline, run_id, streamed()):
            if events == DONE:
                assert len(await world.events(run_id, ev.InferenceMade)) == 1


async def test_usage_is_always_asked_for_and_given_only_to_who_asked():
    script = ScriptedProvider(lambda _: WHOLE)
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        silent = b"".join(await collect(world, run_id))
        told = b"".join(await collect(world, run_id, streamed(keep_usage=True)))
    assert all(body["stream_options"] == {"include_usage": True} for body in script.bodies)
    assert (b"usage" in silent, b"usage" in told) == (False, True)


@pytest.mark.parametrize(
    "failure",
    [
        UNREACHABLE,
        [AnswerCut("broke")],
        [ProviderTooSlow("silent")],
        [],
        [b'data: {"error": {"message": "overloaded"}}\n\n'],
        [b"<html>\n\n", b"data: nonsense\n\n"],
        [DONE],
        [b'{"error": {"message": "overloaded"}}'],
        [completion().body],
        ProviderReply(status=500, body=b"boom"),
        ProviderReply(status=429, body=b"later"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_before_the_first_event_a_failure_stays_unseen(failure):
    bad = (provider("bad", weight=1e9), ScriptedProvider(lambda _: failure))
    good = (provider("good", weight=1e-9), ScriptedProvider(lambda _: WHOLE))
    async with World(bad, good).running() as world:
        run_id = await world.run()
        assert b"".join(await collect(world, run_id)) == b"".join(WHOLE[:3]) + DONE
        (made,) = await world.events(run_id, ev.InferenceMade)
    assert [attempt.provider for attempt in made.attempts] == ["bad", "good"]


@pytest.mark.parametrize("broken", [[], [AnswerCut("broke")]], ids=["ended", "cut"])
async def test_a_stream_that_breaks_before_its_first_event_is_charged_for_its_prompt(broken):
    async with World((provider(), ScriptedProvider(lambda _: broken))).running() as world:
        run_id = await world.run()
        with pytest.raises(errors.ProviderFailed):
            await collect(world, run_id)
        (failed,) = await world.events(run_id, ev.InferenceFailed)
    assert (failed.attempts[0].outcome, failed.attempts[0].usage_source) == ("cut", "estimated")
    assert failed.cost_nano_usd > 0


@pytest.mark.parametrize(("answer", "cost"), [(completion().body, 30_000), (b'{"error": {"message": "no"}}', 0)])
async def test_json_where_a_stream_was_asked_for_is_charged_as_it_says(answer, cost):
    async with World((provider(), ScriptedProvider(lambda _: [answer]))).running() as world:
        run_id = await world.run()
        with pytest.raises(errors.ProviderFailed, match="no stream but JSON: "):
            await collect(world, run_id)
        (failed,) = await world.events(run_id, ev.InferenceFailed)
    assert (failed.attempts[0].outcome, failed.cost_nano_usd) == ("malformed", cost)


async def test_when_no_stream_begins_the_failure_is_raised():
    async with World((provider(), ScriptedProvider(lambda _: UNREACHABLE))).running() as world:
        run_id = await world.run()
        with pytest.raises(errors.ProviderFailed):
            await collect(world, run_id)
        assert len(await world.events(run_id, ev.InferenceFailed)) == 1


@pytest.mark.parametrize(
    "ending",
    [
        [AnswerCut("broke")],
        [ProviderTooSlow("silent")],
        [],
        [b'data: {"error": {"message": "overloaded"}}\n\n'],
        [b"data: {broken\n\n"],
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_stream_that_breaks_ends_in_an_error_event_and_is_billed_by_estimate(ending):
    script = ScriptedProvider(lambda _: [chunk("Hello" * 8), *ending])
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        out = await collect(world, run_id)
        (failed,) = await world.events(run_id, ev.InferenceFailed)
        assert await world.events(run_id, ev.InferenceMade) == []
    assert DONE not in out
    error = msgspec.json.decode(out[-1].removeprefix(b"data: "))["error"]
    assert error["code"] == "provider_failed"
    assert failed.attempts[0].outcome == "cut"
    assert failed.attempts[0].usage_source == "estimated"
    assert failed.usage.output == count_tokens("Hello" * 8) > 1
    assert failed.cost_nano_usd > 0
    assert b"Hello" in world.blobs.contents[failed.reply.digest]


def finish(*indexes):
    body = {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"} for index in indexes]}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


@pytest.mark.parametrize(
    ("ending", "whole"),
    [
        ([finish(0)], False),
        ([finish(0), finish(0)], False),
        ([finish(0), finish(1)], True),
        ([finish(1, 0)], True),
        ([finish(0), DONE], True),
    ],
    ids=["one", "one twice", "both", "both at once", "done"],
)
async def test_several_answers_are_whole_when_each_is(ending, whole):
    script = ScriptedProvider(lambda _: [chunk("Hello"), *ending])
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        out = await collect(world, run_id, streamed(answers=2))
        made, failed = await world.events(run_id, ev.InferenceMade), await world.events(run_id, ev.InferenceFailed)
    assert (out[-1] == DONE, len(made), len(failed)) == (whole, int(whole), int(not whole))


async def test_a_drain_that_takes_too_long_ends_streams_with_an_error_event():
    script = ScriptedProvider(lambda _: [chunk("Hello" * 8), 30.0, *WHOLE])
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        collecting = asyncio.create_task(collect(world, run_id))
        await until(lambda: script.open)
        await asyncio.wait_for(world.pipeline.drain(0.1), 10)
        out = await collecting
        (failed,) = await world.events(run_id, ev.InferenceFailed)
        kept = world.blobs.contents[failed.reply.digest]
    assert msgspec.json.decode(out[-1].removeprefix(b"data: "))["error"]["code"] == "shutting_down"
    assert (failed.status, failed.usage.output, DONE in out) == (503, count_tokens("Hello" * 8), False)
    assert kept.count(b"Hello") == 8, "what came is kept"


async def test_a_stream_that_tells_no_output_beside_its_text_is_estimated():
    told = {"prompt_tokens": 9, "completion_tokens": None}
    events = [chunk("x" * 400), chunk(finish="stop", usage=told), DONE]
    async with World((provider(), ScriptedProvider(lambda _: events))).running() as world:
        run_id = await world.run()
        await collect(world, run_id)
        (made,) = await world.events(run_id, ev.InferenceMade)
    assert (made.attempts[0].usage_source, made.usage.output) == ("estimated", count_tokens("x" * 400))


async def test_a_stream_without_done_but_with_a_finish_reason_is_whole():
    async with World((provider(), ScriptedProvider(lambda _: WHOLE[:4]))).running() as world:
        run_id = await world.run()
        assert (await collect(world, run_id))[-1] == DONE


async def test_a_caller_that_leaves_in_the_middle_pays_for_what_came():
    script = ScriptedProvider(lambda _: [chunk("Hello" * 8), 30.0, *WHOLE])
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        events = events_of(world.pipeline, run_id, streamed())
        await anext(events)
        await asyncio.wait_for(events.aclose(), 1)
        assert (script.open, script.abandoned) == (0, 1)
        await world.pipeline.drain()
        (failed,) = await world.events(run_id, ev.InferenceFailed)
    assert (failed.status, failed.attempts[0].outcome, failed.usage.output) == (
        499,
        "abandoned",
        count_tokens("Hello" * 8),
    )
    assert failed.cost_nano_usd > 0


async def test_a_caller_that_leaves_between_events_is_settled_too():
    script = ScriptedProvider(lambda _: [chunk("Hello" * 8), 30.0, *WHOLE])
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        events = events_of(world.pipeline, run_id, streamed())
        await anext(events)
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await world.pipeline.drain()
        (failed,) = await world.events(run_id, ev.InferenceFailed)
    assert (script.open, failed.attempts[0].outcome) == (0, "abandoned")


async def test_absent_usage_in_a_stream_is_estimated_from_the_text():
    events = [chunk("x" * 400), chunk(finish="stop"), DONE]
    async with World((provider(), ScriptedProvider(lambda _: events))).running() as world:
        run_id = await world.run()
        await collect(world, run_id)
        (made,) = await world.events(run_id, ev.InferenceMade)
    assert (made.attempts[0].usage_source, made.usage.output) == ("estimated", count_tokens("x" * 400))
