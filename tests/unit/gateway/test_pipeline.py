"""The way of a call over memory stores and scripted providers: what is answered, what stands in the log afterwards."""

import asyncio

import msgspec
import pytest
from unit.gateway.support import (
    CLOCK,
    PRICE,
    UNREACHABLE,
    ScriptedProvider,
    World,
    chat,
    completion,
    model,
    provider,
    run_events,
    until,
)

from ridges.chassis.ports import EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.contracts.usage import TokenUsage, cost_nano_usd
from ridges.gateway import errors, log_patience
from ridges.gateway.calls import MalformedReply
from ridges.gateway.openai_routes import chat_call
from ridges.gateway.pipeline import MOST_REFUSALS_RECORDED
from ridges.gateway.ports import AnswerCut, ProviderReply, ProviderTooSlow
from ridges.gateway.token_estimate import count_tokens


def accept(body):
    return msgspec.json.decode(body)["choices"][0]["message"]["content"]


def refused_by_provider(status, text="nope", retry_after_s=None):
    return ProviderReply(status=status, body=text.encode(), retry_after_s=retry_after_s)


async def ask(world, run_id, call=None, gateway=0):
    return (await world.gateways[gateway].pipeline.complete(run_id, call or chat(), accept))[1]


async def test_an_answered_call_is_reserved_then_made():
    async with World().running() as world:
        run_id = await world.run()
        assert await ask(world, run_id) == "hi"
        reserved, made = await world.events(run_id, ev.InferenceReserved, ev.InferenceMade)
    assert made.call_id == reserved.call_id
    assert made.usage == TokenUsage(input=10, output=5)
    assert made.cost_nano_usd == 10 * 1_000 + 5 * 4_000 <= reserved.cost_nano_usd
    (attempt,) = made.attempts
    assert (attempt.provider, attempt.served_model, attempt.outcome) == ("p", "served-m", "ok")
    assert (attempt.price, attempt.price_list, attempt.usage_source) == (PRICE, "test", "provider")
    assert made.request.digest in world.blobs.contents
    assert made.reply.digest in world.blobs.contents


async def test_contents_can_be_left_out():
    async with World(contents="none").running() as world:
        run_id = await world.run()
        await ask(world, run_id)
        (made,) = await world.events(run_id, ev.InferenceMade)
    assert (made.request, made.reply, world.blobs.contents) == (None, None, {})


FAILURES = [
    (UNREACHABLE, "connect_error", 502),
    (ProviderTooSlow("no answer"), "timeout", 504),
    (AnswerCut("the connection broke"), "cut", 502),
    (refused_by_provider(500), "http_error", 500),
    (refused_by_provider(503), "http_error", 503),
    (refused_by_provider(429), "http_error", 429),
    (refused_by_provider(401), "http_error", 401),
    (refused_by_provider(404), "http_error", 404),
    (refused_by_provider(302), "http_error", 502),
    (ProviderReply(status=200, body=b"<html>"), "malformed", 502),
]


@pytest.mark.parametrize(("failure", "outcome", "status"), FAILURES, ids=lambda value: str(value)[:40])
async def test_another_provider_answers_and_both_attempts_are_kept(failure, outcome, status):
    bad = (provider("bad", weight=1e9), ScriptedProvider(lambda _: failure))
    good = (provider("good", weight=1e-9), ScriptedProvider())

    def strict(body):
        try:
            return accept(body)
        except msgspec.DecodeError as error:
            raise MalformedReply("garbage") from error

    async with World(bad, good).running() as world:
        run_id = await world.run()
        assert (await world.pipeline.complete(run_id, chat(), strict))[1] == "hi"
        (made,) = await world.events(run_id, ev.InferenceMade)
    assert [(a.provider, a.outcome) for a in made.attempts] == [("bad", outcome), ("good", "ok")]
    assert made.cost_nano_usd == sum(attempt.cost_nano_usd for attempt in made.attempts)


@pytest.mark.parametrize(("failure", "outcome", "status"), FAILURES[:-1], ids=lambda value: str(value)[:40])
async def test_when_nobody_answers_the_caller_gets_the_providers_status_and_text(failure, outcome, status):
    async with World((provider(), ScriptedProvider(lambda _: failure))).running() as world:
        run_id = await world.run()
        with pytest.raises(errors.ProviderFailed) as caught:
            await ask(world, run_id)
        (failed,) = await world.events(run_id, ev.InferenceFailed)
    assert caught.value.status == failed.status == status
    assert caught.value.detail == failed.detail
    assert failed.attempts[0].outcome == outcome
    for word in ("provider p", "model m", "code: "):
        assert word in caught.value.detail


async def test_a_bad_request_is_not_tried_elsewhere():
    script = ScriptedProvider(lambda _: refused_by_provider(400, '{"error": {"message": "too long"}}'))
    async with World((provider("a"), script), (provider("b"), script)).running() as world:
        run_id = await world.run()
        with pytest.raises(errors.ProviderFailed, match="too long") as caught:
            await ask(world, run_id)
    assert caught.value.status == 400
    assert len(script.bodies) == 1


async def test_retry_after_is_passed_on_then_obeyed():
    script = ScriptedProvider(lambda _: refused_by_provider(429, "slow down", 7))
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        for expected in (429, 503):
            with pytest.raises(errors.ProviderFailed) as caught:
                await ask(world, run_id)
            assert caught.value.status == expected
            assert 4 <= int(caught.value.headers["Retry-After"]) <= 7
    assert len(script.bodies) == 1, "the provider is left in peace"


async def test_work_in_vain_is_estimated_and_never_beyond_the_reservation():
    """The first provider times out (billed by time), the second answers: both within what was reserved."""
    slow = (provider("slow", weight=1e9, timeout_s=0.2), ScriptedProvider(lambda _: 9.0))
    fast = (provider("fast", weight=1e-9), ScriptedProvider())
    async with World(slow, fast).running() as world:
        run_id = await world.run()
        await ask(world, run_id)
        reserved, made = await world.events(run_id, ev.InferenceReserved, ev.InferenceMade)
    timed_out = made.attempts[0]
    assert (timed_out.usage_source, timed_out.outcome) == ("estimated", "timeout")
    assert timed_out.usage.output >= 9
    assert made.cost_nano_usd <= reserved.cost_nano_usd
    assert fast[1].bodies[0]["max_tokens"] < 1_000


async def test_absent_usage_is_estimated_and_marked():
    reply = ProviderReply(status=200, body=msgspec.json.encode({"choices": [{"message": {"content": "x" * 400}}]}))
    async with World((provider(), ScriptedProvider(lambda _: reply))).running() as world:
        run_id = await world.run()
        await ask(world, run_id)
        (made,) = await world.events(run_id, ev.InferenceMade)
    assert made.attempts[0].usage_source == "estimated"
    assert made.usage.output == count_tokens("x" * 400) > 50
    assert made.usage.input > 0


@pytest.mark.parametrize("gateways", [1, 2])
async def test_two_hundred_parallel_calls_never_overshoot(gateways):
    """A budget for about ten calls: whatever the order, used stays within it, and it is used up."""
    usage = completion(prompt=40, output=1_000)
    script = ScriptedProvider(lambda _: usage)
    each = cost_nano_usd(TokenUsage(input=40, output=1_000), PRICE)
    async with World((provider(), script)).running(gateways) as world:
        run_id = await world.run(max_cost_nano_usd=10 * each, max_concurrency=300)
        replies = await asyncio.gather(
            *(ask(world, run_id, chat(), number % gateways) for number in range(200)), return_exceptions=True
        )
        made = await world.events(run_id, ev.InferenceMade)
        used, most = await world.pipeline.spending_of(run_id)
    refusals = [reply for reply in replies if reply != "hi"]
    assert all(isinstance(refusal, errors.CostLimitReached) for refusal in refusals)
    assert len(made) == 200 - len(refusals)
    assert sum(event.cost_nano_usd for event in made) == used <= most
    assert used > most - 2 * each, "honest agents can use the budget to the end"


def most_at_once(events, weight):
    """The largest sum of the weights of what is held or used at any moment in the log."""
    held, most = {}, 0
    for event in events:
        held[event.call_id] = weight(event)
        most = max(most, sum(held.values()))
    return most


LIMITS = {
    "cost": (
        {"max_cost_nano_usd": 4_500_000},
        lambda event: event.cost_nano_usd,
        errors.CostLimitReached,
    ),
    "requests": ({"max_requests": 30}, lambda _: 1, errors.RequestLimitReached),
    "tokens": (
        {"max_tokens": 2_000},
        lambda event: event.tokens if isinstance(event, ev.InferenceReserved) else event.usage.total,
        errors.TokenLimitReached,
    ),
    "concurrency": (
        {"max_concurrency": 7},
        lambda event: isinstance(event, ev.InferenceReserved),
        errors.TooManyCalls,
    ),
}


@pytest.mark.parametrize("gateways", [1, 2])
@pytest.mark.parametrize("kind", LIMITS)
async def test_of_two_hundred_parallel_calls_none_gets_beyond_a_limit(kind, gateways):
    """Used and reserved together, at every moment in the log, through one gateway or two."""
    limits, weight, refusal = LIMITS[kind]
    async with World((provider(max_concurrency=500), ScriptedProvider(lambda _: 0.01))).running(gateways) as world:
        run_id = await world.run(**({"max_concurrency": 500} | limits))
        replies = await asyncio.gather(
            *(ask(world, run_id, chat(), number % gateways) for number in range(200)), return_exceptions=True
        )
        events = await world.events(run_id, ev.InferenceReserved, ev.InferenceMade)
    assert most_at_once(events, weight) <= next(iter(limits.values()))
    assert {type(reply) for reply in replies} == {str, refusal}
    assert replies.count("hi") == sum(isinstance(event, ev.InferenceMade) for event in events) > 5


@pytest.mark.parametrize("gateways", [1, 2])
async def test_reservations_in_the_log_never_exceed_the_limit_at_any_moment(gateways):
    async with World((provider(), ScriptedProvider(lambda _: 0.01))).running(gateways) as world:
        run_id = await world.run(max_cost_nano_usd=9_000_000, max_concurrency=100)
        await asyncio.gather(
            *(ask(world, run_id, chat(), number % gateways) for number in range(30)), return_exceptions=True
        )
        held, most = {}, 0
        for event in await world.events(run_id, ev.InferenceReserved, ev.InferenceMade):
            held[event.call_id] = event.cost_nano_usd
            most = max(most, sum(held.values()))
    assert len(held) > 2
    assert most <= 9_000_000


async def test_a_call_waits_for_budget_held_by_another():
    script = ScriptedProvider(lambda _: 0.05)
    async with World((provider(), script)).running() as world:
        run_id = await world.run(max_cost_nano_usd=5_000_000)
        assert await asyncio.gather(*(ask(world, run_id) for _ in range(4))) == ["hi"] * 4
    assert script.most_open == 1


async def test_without_patience_a_call_is_cut_down_at_once():
    script = ScriptedProvider(lambda _: 0.05)
    async with World((provider(), script), budget_wait_s=0).running() as world:
        run_id = await world.run(max_cost_nano_usd=5_000_000)
        await asyncio.gather(ask(world, run_id), ask(world, run_id))
    first, second = sorted(script.bodies, key=lambda body: body.get("max_tokens", 1_000), reverse=True)
    assert "max_tokens" not in first
    assert 16 <= second["max_tokens"] < 1_000


@pytest.mark.parametrize("obeyed", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 50}, 50),
        ({"max_tokens": 50, "max_completion_tokens": 1}, 50),
        ({"max_tokens": 1, "max_completion_tokens": 50}, 50),
        ({"max_tokens": None, "max_completion_tokens": 50}, 50),
    ],
)
async def test_a_provider_is_told_the_reserved_limit_in_the_one_field_it_obeys(obeyed, given, limit):
    """Whatever the caller wrote: a second field could allow more than was set aside."""
    script = ScriptedProvider()
    async with World((provider(output_limit_field=obeyed), script)).running() as world:
        run_id = await world.run()
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | given
        await ask(world, run_id, chat_call(msgspec.json.encode(body)))
        (reserved,) = await world.events(run_id, ev.InferenceReserved)
    (told,) = script.bodies
    assert {name: told[name] for name in given.keys() & told.keys() | {obeyed}} == {obeyed: limit}
    assert limit * 4_000 <= reserved.cost_nano_usd < limit * 4_000 + 300 * 1_000


async def test_a_field_that_changes_model_or_price_goes_only_where_it_is_allowed():
    strict, lenient = ScriptedProvider(), ScriptedProvider()
    allowing = provider("lenient", allow_unpriced=frozenset({"service_tier"}))
    offers = (provider("strict", weight=1e9), strict), (allowing, lenient)
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "service_tier": "priority"}
    async with World(*offers).running() as world:
        run_id = await world.run()
        await ask(world, run_id, chat_call(msgspec.json.encode(body)))
        await ask(world, run_id, chat_call(msgspec.json.encode(body | {"service_tier": None})))
    assert [body["service_tier"] for body in lenient.bodies] == ["priority"]
    assert [body["service_tier"] for body in strict.bodies] == [None]
    async with World(offers[0]).running() as world:
        run_id = await world.run()
        with pytest.raises(errors.Unpriced, match=r"^service_tier asks for something that no price of"):
            await ask(world, run_id, chat_call(msgspec.json.encode(body)))
        assert await world.events(run_id, ev.InferenceReserved) == []


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "image_url", "image_url": {"url": "data:" + "A" * 9_000}}, 500),
        ({"image_url": "https://x/y.png"}, 500),
        ({"type": "text", "text": "x" * 700}, 700),
        ({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}, 100_000),
        ({"type": "file", "file": {"file_id": "f"}}, 100_000),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}, 100_000),
        ({"type": "what we do not know"}, 100_000),
        ({"type": ["no", "text"]}, 100_000),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_parts_that_no_text_bounds_reserve_the_whole_context(part, tokens):
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
    allowed = provider("p", model(image_tokens=500), allow_unpriced=frozenset({"content.file", "content.input_audio"}))
    async with World((allowed, ScriptedProvider())).running() as world:
        run_id = await world.run()
        await ask(world, run_id, chat_call(msgspec.json.encode(body)))
        (reserved,) = await world.events(run_id, ev.InferenceReserved)
    assert tokens <= reserved.prompt_tokens <= tokens + 300


async def test_the_dearest_provider_sets_the_reservation():
    dear = msgspec.structs.replace(PRICE, output=PRICE.output * 10)
    offers = (provider("cheap"), ScriptedProvider()), (provider("dear", model(price=dear)), ScriptedProvider())
    async with World(*offers).running() as world:
        run_id = await world.run()
        await ask(world, run_id)
        (reserved,) = await world.events(run_id, ev.InferenceReserved)
    assert reserved.cost_nano_usd >= 1_000 * 40_000


async def test_refusals_are_recorded_but_do_not_flood_the_log():
    async with World().running() as world:
        run_id = await world.run(max_cost_nano_usd=0)
        for _ in range(MOST_REFUSALS_RECORDED + 20):
            with pytest.raises(errors.CostLimitReached):
                await ask(world, run_id)
        refused = await world.events(run_id, ev.InferenceRefused)
    assert len(refused) == MOST_REFUSALS_RECORDED
    assert {(event.reason, event.status, event.model) for event in refused} == {("cost", 429, "m")}


async def test_a_run_that_ends_while_it_is_known_is_refused():
    async with World().running() as world:
        run_id = await world.run()
        await ask(world, run_id)
        cancelled = ev.RunCancelled(id=CLOCK.new_id(), run_id=run_id, time=CLOCK.now(), reason="enough")
        await world.store.append(run_id, [cancelled])
        await asyncio.sleep(0.01)
        with pytest.raises(errors.RunNotRunning, match=r"current state: error"):
            await ask(world, run_id)


async def test_a_run_that_starts_just_before_its_first_call_is_served():
    """The view may be older than the log: it is read again before a call is refused."""
    world = World()
    async with world.running():
        run_id = await world.run(started=False)
        with pytest.raises(errors.RunNotRunning, match=r"current state: pending"):
            await ask(world, run_id)
        await world.store.append(run_id, run_events(run_id)[1:])
        assert await ask(world, run_id) == "hi"


class AwayStore:
    """A log that can go away."""

    def __init__(self, store):
        self._store, self.away = store, False

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def append(self, *arguments):
        if self.away:
            raise EventStoreUnavailable("away")
        return await self._store.append(*arguments)

    async def read_run(self, run_id):
        if self.away:
            raise EventStoreUnavailable("away")
        return await self._store.read_run(run_id)


async def test_without_the_log_calls_fail_closed_and_no_provider_is_asked():
    script = ScriptedProvider()
    world = World((provider(), script))
    world.store = AwayStore(world.store)
    async with world.running():
        known, unknown = await world.run(), await world.run()
        await ask(world, known)
        world.store.away = True
        for run_id in (known, unknown):
            with pytest.raises(errors.LogUnavailable) as caught:
                await ask(world, run_id)
            assert caught.value.headers["Retry-After"]
        world.store.away = False
        await asyncio.wait_for(world.pipeline.drain(), 5)
    assert len(script.bodies) == 1


async def test_calls_wait_for_the_log_where_that_is_configured():
    script = ScriptedProvider()
    world = World((provider(), script), log_wait_s=60)
    world.store = AwayStore(world.store)
    async with world.running():
        known, unknown = await world.run(), await world.run()
        await ask(world, known)
        world.store.away = True
        waiting = [asyncio.create_task(ask(world, run_id)) for run_id in (known, unknown)]
        await asyncio.sleep(0.1)
        assert (len(script.bodies), [task.done() for task in waiting]) == (1, [False, False])
        world.store.away = False
        assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == ["hi", "hi"]
        await asyncio.wait_for(world.pipeline.drain(), 20)
        assert len(await world.events(known, ev.InferenceMade)) == 2


async def test_the_wait_for_the_log_ends():
    world = World(log_wait_s=0.3)
    world.store = AwayStore(world.store)
    async with world.running():
        run_id = await world.run()
        world.store.away = True
        with pytest.raises(errors.LogUnavailable):
            await ask(world, run_id)


async def test_only_so_many_calls_wait_for_the_log(monkeypatch):
    monkeypatch.setattr(log_patience, "MOST_WAITING", 2)
    world = World(log_wait_s=60)
    world.store = AwayStore(world.store)
    async with world.running():
        run_id = await world.run()
        world.store.away = True
        calls = [asyncio.create_task(ask(world, run_id)) for _ in range(4)]
        await until(lambda: sum(call.done() for call in calls) == 2)
        world.store.away = False
        replies = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
    assert replies.count("hi") == 2
    assert sum(isinstance(reply, errors.LogUnavailable) for reply in replies) == 2


async def test_a_settlement_waits_for_a_log_that_went_away_meanwhile():
    world = World()
    world.store = AwayStore(world.store)

    def script(_):
        world.store.away = True
        return completion()

    world.providers[0][1].script = script
    async with world.running():
        run_id = await world.run()
        asking = asyncio.create_task(ask(world, run_id))
        await asyncio.sleep(0.3)
        assert await world.store._store.read_run(run_id)
        world.store.away = False
        assert await asking == "hi"
        assert len(await world.events(run_id, ev.InferenceMade)) == 1


async def test_a_caller_that_leaves_frees_the_provider_and_pays_for_the_time():
    script = ScriptedProvider(lambda _: 5.0)
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        asking = asyncio.create_task(ask(world, run_id))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (script.open, script.abandoned) == (0, 1)
        await world.pipeline.drain()
        (failed,) = await world.events(run_id, ev.InferenceFailed)
        used, _ = await world.gateways[0].pipeline._states.view(run_id), None
    assert (failed.status, failed.attempts[0].outcome) == (499, "abandoned")
    assert failed.attempts[0].usage_source == "estimated"
    assert failed.cost_nano_usd > 0
    assert used.spending.open == {}


async def test_a_draining_gateway_ends_its_calls_and_takes_no_new_ones():
    async with World((provider(), ScriptedProvider(lambda _: 0.1))).running() as world:
        run_id = await world.run()
        asking = asyncio.create_task(ask(world, run_id))
        await asyncio.sleep(0.02)
        draining = asyncio.create_task(world.pipeline.drain())
        await asyncio.sleep(0)
        with pytest.raises(errors.ShuttingDown):
            await ask(world, run_id)
        await draining
        assert await asking == "hi"
        assert len(await world.events(run_id, ev.InferenceMade)) == 1


async def test_a_drain_that_takes_too_long_cuts_its_calls_off_and_leaves_nothing_open():
    async with World((provider(timeout_s=60), ScriptedProvider(lambda _: 30.0))).running() as world:
        run_id = await world.run()
        asking = asyncio.create_task(ask(world, run_id))
        await until(lambda: world.events(run_id, ev.InferenceReserved))
        await asyncio.wait_for(world.pipeline.drain(0.1), 10)
        with pytest.raises(errors.ShuttingDown):
            await asking
        (failed,) = await world.events(run_id, ev.InferenceFailed)
    assert (failed.status, failed.attempts[0].outcome, failed.cost_nano_usd > 0) == (503, "abandoned", True)


@pytest.mark.parametrize(("prompt", "output"), [(None, None), (0, 0), (9, None), (9, 0)])
async def test_usage_that_the_answer_refutes_is_estimated(prompt, output):
    told = {"prompt_tokens": prompt, "completion_tokens": output}
    body = {"choices": [{"message": {"content": "x" * 400}}], "usage": told}
    reply = ProviderReply(status=200, body=msgspec.json.encode(body))
    async with World((provider(), ScriptedProvider(lambda _: reply))).running() as world:
        run_id = await world.run()
        await ask(world, run_id)
        (made,) = await world.events(run_id, ev.InferenceMade)
    assert made.attempts[0].usage_source == "estimated"
    assert made.usage.output == count_tokens("x" * 400)


async def test_provider_slots_are_a_fair_queue():
    script = ScriptedProvider(lambda _: 0.01)
    async with World((provider(max_concurrency=3), script)).running() as world:
        run_id = await world.run()
        await asyncio.gather(*(ask(world, run_id) for _ in range(12)))
    assert script.most_open == 3


async def test_the_breaker_spares_a_dead_provider():
    script = ScriptedProvider(lambda _: UNREACHABLE)
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        for _ in range(8):
            with pytest.raises(errors.ProviderFailed):
                await ask(world, run_id)
    assert len(script.bodies) == 5
