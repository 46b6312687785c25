"""Requests to facts, with a log and blobs in memory and a sandbox that does as it is told."""

import asyncio
import contextlib
import errno
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from unit.sandbox_manager.samples import (
    AGENT,
    RUN,
    STATEMENT,
    WORKSPACE,
    cancelled,
    envelope,
    evaluation_requested,
    evaluation_started,
    left,
    produced,
    requested,
    started,
)

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.clock import SystemClock
from ridges.chassis.memory_store import MemoryEventStore
from ridges.chassis.ports import EventStoreUnavailable, GiveBack, LeftToOthers, Recorded
from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.limits import ModelLimits, RunLimits
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.sandbox_manager.admission import Admission, Want
from ridges.sandbox_manager.attempt_copies import AttemptCopies
from ridges.sandbox_manager.capacity import FreeSpace
from ridges.sandbox_manager.domain import fold
from ridges.sandbox_manager.errors import (
    ImageMissing,
    LimitsRefused,
    ProxyFailed,
    SandboxFailed,
    SandboxUnavailable,
)
from ridges.sandbox_manager.handlers import Handlers
from ridges.sandbox_manager.live import LiveSandboxes
from ridges.sandbox_manager.metrics import ManagerMetrics
from ridges.sandbox_manager.mishaps import Patience
from ridges.sandbox_manager.outcomes import MAX_PATCH_BYTES
from ridges.sandbox_manager.ports import OutputFile, SandboxExit
from ridges.sandbox_manager.technologies import Technologies
from ridges.sandbox_manager.workbench import Workbench

PATCHED = left(b'{"success": true, "output": "diff x"}')
GRADED = SandboxExit(
    exit=ev.ExitFacts(exit_code=0),
    log=b"graded",
    outputs=(OutputFile(path="/sandbox/report.xml", content=b"<xml/>"),),
)


class ToldSandbox:
    """Gives the ends it was told, in order; the last one for ever."""

    name = "docker"

    def __init__(self, *ends) -> None:
        self.ends, self.specs = list(ends), []
        self.broken: Exception | None = None
        self.refuses: Exception | None = None

    async def check(self) -> None:
        if self.broken:
            raise self.broken

    async def admit(self, spec):
        if self.refuses:
            raise self.refuses

    async def run(self, spec, cancelled):
        self.specs.append(spec)
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if callable(end):
            end = await end(spec, cancelled)
        if isinstance(end, BaseException):
            raise end
        return end

    async def sweep(self, live):
        return 0


class FakeProxies:
    def __init__(self) -> None:
        self.problem: Exception | None = None

    @contextlib.asynccontextmanager
    async def serve(self, run_id, sandbox_id, max_connections):
        if self.problem:
            raise self.problem
        yield Path("/run/of") / run_id


@pytest.fixture(autouse=True)
def folder(tmp_path):
    Scene.folder = tmp_path / "logs"


class Scene:
    folder: Path

    def __init__(self, *ends, events=(), wait_s: float = 0.0, max_attempts: int = 3, slots: int = 4, min_free_bytes=0):
        self.clock = SystemClock()
        self.store, self.blobs = MemoryEventStore(self.clock), MemoryBlobStore()
        self.sandbox, self.proxies, self.live = ToldSandbox(*ends), FakeProxies(), LiveSandboxes()
        self.admission = Admission(slots, 1 << 40)
        self.history = [requested(), *events]
        self.registry = CollectorRegistry()
        self.patience = Patience(self.clock, wait_s)
        self.technologies = Technologies({"docker": self.sandbox}, "docker", self.clock)
        self.workbench = Workbench(
            store=self.store,
            blobs=self.blobs,
            clock=self.clock,
            technologies=self.technologies,
            proxies=self.proxies,
            metrics=ManagerMetrics(self.registry),
            patience=self.patience,
            free_space=FreeSpace([Path("/")], min_free_bytes),
            attempt_copies=AttemptCopies(self.folder),
            manager_name="m",
            docker_image="image",
            max_attempts=max_attempts,
        )
        self.evaluations = Admission(4, 1 << 32)
        places = {"agents": self.admission, "evaluations": self.evaluations}
        self.handlers = Handlers(self.workbench, live=self.live, **places, claim_s=0.05)

    async def set(self) -> "Scene":
        for content in (AGENT, STATEMENT, WORKSPACE, b"tar"):
            await self.blobs.put(content, "")
        await self.store.append(RUN, self.history)
        return self

    async def deliver(self, event=None, *, left_to_others=False) -> list[ev.AnyEvent]:
        """What the delivery of the request (or of another event) adds to the log, and whether it is settled then."""
        before = len(await self.store.read_run(RUN))
        event = event or self.history[0]
        handler = self.handlers.run_agent if isinstance(event, ev.RunRequested) else self.handlers.run_evaluation
        with pytest.raises(LeftToOthers) if left_to_others else contextlib.nullcontext():
            await handler(Recorded(position=1, event=event))
        return [recorded.event for recorded in await self.store.read_run(RUN)][before:]


async def test_a_run_starts_in_the_log_before_its_sandbox_and_ends_in_it():
    scene = await Scene(PATCHED).set()
    begun, ended = await scene.deliver()
    assert (begun.attempt, begun.manager, begun.sandbox, begun.image) == (1, "m", "docker", "image")
    assert (ended.attempt, ended.partial, ended.cause) == (1, False, None)
    assert await scene.blobs.get(ended.patch.digest) == b"diff x"
    assert await scene.blobs.get(ended.log.digest) == b"log"
    assert ended.causation_id == scene.history[0].id
    assert scene.sandbox.specs[0].proxy_dir == Path("/run/of") / RUN


async def test_delivered_again_after_its_end_it_does_nothing():
    scene = await Scene(PATCHED).set()
    await scene.deliver()
    assert await scene.deliver() == []
    assert len(scene.sandbox.specs) == 1


async def test_a_lost_attempt_is_followed_by_the_next():
    scene = await Scene(PATCHED, events=[started(1)]).set()
    begun, ended = await scene.deliver()
    assert (begun.attempt, ended.attempt) == (2, 2)


async def test_the_last_lost_attempt_ends_the_run():
    scene = await Scene(PATCHED, events=[started(1), started(2), started(3)]).set()
    (ended,) = await scene.deliver()
    assert (ended.attempt, ended.cause) == (3, Cause.LOST_WHILE_RUNNING_AGENT)
    assert scene.sandbox.specs == []


async def test_two_managers_never_start_the_same_attempt():
    scene = await Scene(PATCHED).set()

    async def pick_slowly(_requested, **_needed):
        await scene.store.append(RUN, [started(1)])
        return scene.sandbox

    scene.technologies.pick = pick_slowly
    assert [type(event) for event in await scene.deliver(left_to_others=True)] == [ev.AgentStarted]
    assert scene.sandbox.specs == []


@pytest.mark.parametrize("overtaking", [started(2), ev.AgentFailed])
async def test_a_result_that_was_overtaken_is_dropped(overtaking):
    scene = await Scene(PATCHED).set()
    event = overtaking
    if event is ev.AgentFailed:
        fields = {"id": "e", "run_id": RUN, "time": scene.clock.now()}
        event = ev.AgentFailed(**fields, attempt=1, cause=Cause.PLATFORM_FAILED, detail="d")

    async def meanwhile(_spec, _cancelled):
        await scene.store.append(RUN, [event])
        return PATCHED

    scene.sandbox.ends = [meanwhile]
    added = await scene.deliver(left_to_others=isinstance(event, ev.AgentStarted))
    assert [type(each) for each in added] == [ev.AgentStarted, type(event)]


async def test_an_attempt_that_breaks_after_it_was_overtaken_is_not_tried_again():
    scene = await Scene(PATCHED).set()

    async def meanwhile(_spec, _cancelled):
        await scene.store.append(RUN, [started(2)])
        return SandboxFailed(RUN, "broke")

    scene.sandbox.ends = [meanwhile]
    assert [event.attempt for event in await scene.deliver(left_to_others=True)] == [1, 2]


async def test_other_facts_of_the_run_do_not_cost_the_result():
    scene = await Scene(PATCHED).set()
    refused = ev.InferenceRefused(
        id="r", run_id=RUN, time=scene.clock.now(), reason="cost", status=429, model=None, detail="d"
    )
    append, interfered = scene.store.append, []

    async def append_with_interference(stream_id, events, expected=None):
        if isinstance(events[0], ev.PatchProduced) and not interfered:
            interfered.append(True)
            await append(stream_id, [refused])
        return await append(stream_id, events, expected)

    scene.store.append = append_with_interference
    assert [type(event).__name__ for event in await scene.deliver()] == [
        "AgentStarted",
        "InferenceRefused",
        "PatchProduced",
    ]


async def test_a_log_that_does_not_answer_is_waited_for(monkeypatch):
    scene = await Scene(PATCHED).set()
    append, failures = scene.store.append, [True, True]
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _delay: sleep(0))

    async def append_lost_ack(stream_id, events, expected=None):
        position = await append(stream_id, events, expected)
        if failures:
            failures.pop()
            raise EventStoreUnavailable("no answer")
        return position

    scene.store.append = append_lost_ack
    assert [type(event) for event in await scene.deliver()] == [ev.AgentStarted, ev.PatchProduced]


async def cancelled_while_it_runs(scene: Scene, end: SandboxExit | Exception):
    watching = asyncio.create_task(scene.handlers.watch(0))

    async def until_cancelled(spec, cancelled_event):
        spec.on_log(0, b"so far")
        await scene.store.append(RUN, [cancelled()])
        await asyncio.wait_for(cancelled_event.wait(), 5)
        if isinstance(end, Exception):
            raise end
        return end

    scene.sandbox.ends = [until_cancelled]
    try:
        begun, cancel, *after = await scene.deliver()
    finally:
        watching.cancel()
    assert (type(begun), type(cancel)) == (ev.AgentStarted, ev.RunCancelled)
    return after


async def test_what_a_cancelled_agent_had_done_by_then_can_be_seen_and_is_not_judged():
    scene = await Scene().set()
    (told,) = await cancelled_while_it_runs(scene, left(cancelled=True, difference=b"diff y", wall_s=3.0))
    assert (type(told), told.cause, told.attempt, told.exit.wall_s) == (ev.AgentFailed, Cause.CANCELLED, 1, 3.0)
    assert await scene.blobs.get(told.unjudged_patch.digest) == b"diff y"
    assert await scene.blobs.get(told.log.digest) == b"log"
    run = fold([recorded.event for recorded in await scene.store.read_run(RUN)])
    assert (run.cause, run.detail) == (Cause.CANCELLED, "enough")
    assert await scene.deliver() == []


async def test_a_patch_returned_just_before_the_cancel_is_kept_and_not_judged():
    scene = await Scene().set()
    (told,) = await cancelled_while_it_runs(scene, PATCHED)
    assert (type(told), told.cause) == (ev.AgentFailed, Cause.CANCELLED)
    assert await scene.blobs.get(told.unjudged_patch.digest) == b"diff x"


async def test_a_cancelled_sandbox_that_breaks_leaves_the_end_of_its_log():
    scene = await Scene().set()
    (told,) = await cancelled_while_it_runs(scene, SandboxFailed(RUN, "broke"))
    assert (told.cause, told.unjudged_patch, "broke" in told.detail) == (Cause.CANCELLED, None, True)
    assert await scene.blobs.get(told.log.digest) == b"so far"


def refused_for_cost(**fields: object) -> ev.InferenceRefused:
    return ev.InferenceRefused(**envelope(), **{"reason": "cost", "status": 429, "model": None, "detail": "d"} | fields)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_spent_budget_ends_the_agent_when_its_run_asks_for_that(ends):
    scene = Scene()
    limits = RunLimits(model=ModelLimits(end_when_spent=ends))
    scene.history = [requested(limits=limits)]
    await scene.set()
    watching = asyncio.create_task(scene.handlers.watch(0))

    async def spend(_spec, cancelled_event):
        await scene.store.append(RUN, [refused_for_cost(reason="requests"), refused_for_cost()])
        if not ends:
            await asyncio.sleep(0.05)
            assert not cancelled_event.is_set()
            return PATCHED
        await asyncio.wait_for(cancelled_event.wait(), 5)
        return left(cancelled=True, difference=b"diff y")

    scene.sandbox.ends = [spend]
    told = (await scene.deliver())[-1]
    watching.cancel()
    expected = (True, Cause.BUDGET_SPENT, b"diff y") if ends else (False, None, b"diff x")
    assert (told.partial, told.cause, await scene.blobs.get(told.patch.digest)) == expected
    assert not ends or "1.00 USD" in told.detail


def failed_call(outcome: str = "http_error", status: int = 500) -> ev.InferenceFailed:
    price = TokenPrice(input=0, output=0, cached_input=0, reasoning=0)
    attempt = ev.InferenceAttempt(
        provider="p",
        served_model="m",
        outcome=outcome,
        status=status,
        latency_ms=1,
        usage=TokenUsage(),
        usage_source="none",
        price=price,
        price_list="l",
        cost_nano_usd=0,
    )
    return ev.InferenceFailed(
        **envelope(),
        call_id="c",
        kind="chat",
        model="m",
        attempts=(attempt,),
        usage=TokenUsage(),
        cost_nano_usd=0,
        status=status,
        detail="d",
    )


RAISED = b'{"success": false, "error": "no model", "kind": "raised"}'


@pytest.mark.parametrize(
    ("event", "cause", "verdict"),
    [(failed_call(), Cause.PROVIDER_FAILED, None), (refused_for_cost(), Cause.BUDGET_SPENT, "unresolved")],
)
@pytest.mark.parametrize("difference", [b"", b"diff y"])
async def test_an_agent_that_ends_for_want_of_a_model_is_told_so(event, cause, verdict, difference):
    scene = await Scene().set()

    async def give_up(_spec, _cancelled):
        await scene.store.append(RUN, [event])
        return left(RAISED, difference=difference)

    scene.sandbox.ends = [give_up]
    told = (await scene.deliver())[-1]
    assert (type(told), told.cause) == (ev.PatchProduced if difference else ev.AgentFailed, cause)
    assert "no model" in told.detail
    run = fold([recorded.event for recorded in await scene.store.read_run(RUN)])
    assert difference or run.verdict == verdict


class FullStore(MemoryBlobStore):
    """Takes nothing for a while."""

    refusals = 0

    async def put(self, content, media_type):
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return await super().put(content, media_type)


@pytest.fixture
def no_delays(monkeypatch):
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _delay: sleep(0))


async def test_a_blob_store_that_is_full_for_a_while_costs_no_attempt(no_delays):
    scene = await Scene(left(RAISED, difference=b"diff y")).set()
    scene.blobs.__class__ = FullStore
    scene.blobs.refusals = 20
    begun, ended = await scene.deliver()
    assert (begun.attempt, ended.attempt, ended.partial, len(scene.sandbox.specs)) == (1, 1, True, 1)
    assert await scene.blobs.get(ended.patch.digest) == b"diff y"
    assert await scene.blobs.get(ended.log.digest) == b"log"


async def test_a_blob_store_that_is_full_for_a_while_costs_no_evaluation(no_delays):
    scene, asked = await judged(GRADED)
    scene.blobs.__class__ = FullStore
    scene.blobs.refusals = 20
    _, ended = await scene.deliver(asked)
    assert (len(scene.sandbox.specs), ended.cause) == (1, None)
    assert await scene.blobs.get(ended.outputs[0].content.digest) == b"<xml/>"


async def test_the_next_attempt_holds_the_log_of_one_whose_sandbox_broke():
    scene = await Scene().set()

    async def talk_and_break(spec, _cancelled):
        spec.on_log(0, b"half\xff of it")
        raise SandboxFailed(RUN, "the engine is gone")

    scene.sandbox.ends = [talk_and_break]
    with pytest.raises(SandboxFailed):
        await scene.deliver()
    scene.sandbox.ends = [PATCHED]
    begun, _ = await scene.deliver()
    assert await scene.blobs.get(begun.previous_log.digest) == "half\N{REPLACEMENT CHARACTER} of it".encode()
    assert list(scene.folder.iterdir()) == []


USED = ev.ExitFacts(exit_code=None, wall_s=35.5, cpu_s=1.0)


async def change_and_break(spec, _cancelled):
    spec.on_difference(b"diff once")
    spec.on_difference(b"diff twice")
    spec.on_usage(USED)
    raise SandboxFailed(RUN, "the engine is gone")


async def test_the_next_attempt_holds_the_last_changes_and_facts_of_one_whose_sandbox_broke():
    scene = await Scene().set()
    scene.sandbox.ends = [change_and_break]
    with pytest.raises(SandboxFailed):
        await scene.deliver()
    scene.sandbox.ends = [PATCHED]
    begun, ended = await scene.deliver()
    assert await scene.blobs.get(begun.previous_patch.digest) == b"diff twice"
    assert begun.previous_exit == USED
    assert await scene.blobs.get(ended.patch.digest) == b"diff x"
    assert list(scene.folder.iterdir()) == []


async def test_the_last_attempt_that_breaks_leaves_its_changes_unjudged_and_its_facts():
    scene = await Scene(max_attempts=1).set()
    scene.sandbox.ends = [change_and_break]
    *_, ended = await scene.deliver()
    assert (type(ended), ended.cause) == (ev.AgentFailed, Cause.SANDBOX_FAILED)
    assert await scene.blobs.get(ended.unjudged_patch.digest) == b"diff twice"
    assert ended.exit == USED


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ({"difference": None, "difference_problem": "git took too long"}, "git took too long"),
        ({"difference": b"x" * (MAX_PATCH_BYTES + 1)}, "the difference has 8388609 bytes"),
    ],
    ids=["none", "too large"],
)
async def test_changes_that_the_end_of_the_sandbox_did_not_tell_are_those_told_before(end, why):
    scene = await Scene().set()

    async def change_and_end(spec, _cancelled):
        spec.on_difference(b"diff once")
        return left(timed_out=True, **end)

    scene.sandbox.ends = [change_and_end]
    *_, ended = await scene.deliver()
    assert (type(ended), ended.cause) == (ev.AgentFailed, Cause.AGENT_TIMED_OUT)
    assert why in ended.detail
    assert await scene.blobs.get(ended.unjudged_patch.digest) == b"diff once"


async def test_the_last_attempt_that_breaks_leaves_its_log():
    scene = await Scene(max_attempts=1).set()

    async def talk_and_break(spec, _cancelled):
        spec.on_log(0, b"half of it")
        raise SandboxFailed(RUN, "the engine is gone")

    scene.sandbox.ends = [talk_and_break]
    _, ended = await scene.deliver()
    assert (ended.cause, await scene.blobs.get(ended.log.digest)) == (Cause.SANDBOX_FAILED, b"half of it")
    assert list(scene.folder.iterdir()) == []


async def test_what_is_refused_beforehand_costs_no_attempt_and_no_trust():
    scene = await Scene(PATCHED).set()
    scene.sandbox.refuses = LimitsRefused(RUN, "cpus 9 is over 4")
    (ended,) = await scene.deliver()
    assert (ended.attempt, ended.cause) == (0, Cause.LIMITS_REFUSED)
    assert "cpus 9" in ended.detail
    assert scene.sandbox.specs == []


async def test_every_start_is_counted_with_an_end_whatever_ends_it():
    ends = {
        "none": PATCHED,
        "agent_raised": left(RAISED),
        "lost": SandboxFailed(RUN, "broke"),
        "overtaken": started(2),
        "cancelled": cancelled(),
    }
    for label, end in ends.items():
        scene = await Scene(PATCHED).set()
        if isinstance(end, SandboxExit | Exception):
            scene.sandbox.ends = [end]
        else:

            async def meanwhile(_spec, _cancelled, scene=scene, end=end):
                assert scene.registry.get_sample_value("ridges_sandboxes_running", OF_AGENTS) == 1
                await scene.store.append(RUN, [end])
                return left(cancelled=True)

            scene.sandbox.ends = [meanwhile]
        with contextlib.suppress(SandboxFailed, LeftToOthers):
            await scene.deliver()
        value = scene.registry.get_sample_value
        assert value("ridges_sandboxes_started_total", OF_AGENTS) == 1
        assert value("ridges_sandboxes_running", OF_AGENTS) == 0
        assert value("ridges_sandboxes_ended_total", {"kind": "agent", "cause": label}) == 1, label


OF_AGENTS = {"kind": "agent", "sandbox": "docker"}


async def test_the_same_run_delivered_twice_to_one_manager_runs_once():
    scene = await Scene(PATCHED).set()
    go_on = asyncio.Event()

    async def wait(_spec, _cancelled):
        await go_on.wait()
        return PATCHED

    scene.sandbox.ends = [wait]
    first = asyncio.create_task(scene.deliver())
    await asyncio.sleep(0.05)
    second = asyncio.create_task(scene.deliver())
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.gather(first, second)
    assert len(scene.sandbox.specs) == 1


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (SandboxFailed(RUN, "broke"), Cause.SANDBOX_FAILED),
        (SandboxUnavailable("engine gone", "start it"), Cause.SANDBOX_UNAVAILABLE),
        (OSError("disk full"), Cause.PLATFORM_FAILED),
    ],
)
async def test_a_broken_sandbox_is_tried_again_and_at_last_named(error, cause):
    scene = await Scene(error, max_attempts=2).set()
    with pytest.raises(type(error)):
        await scene.deliver()
    begun, ended = await scene.deliver()
    assert (begun.attempt, ended.attempt, ended.cause) == (2, 2, cause)
    assert str(error) in ended.detail


async def test_a_proxy_that_does_not_start_counts_the_same():
    scene = await Scene(PATCHED, max_attempts=1).set()
    scene.proxies.problem = ProxyFailed(RUN, "no nginx")
    _, ended = await scene.deliver()
    assert (ended.cause, "no nginx" in ended.detail) == (Cause.SANDBOX_FAILED, True)


async def test_a_missing_image_ends_the_run_at_once():
    scene = await Scene(ImageMissing("x:1", "build it")).set()
    _, ended = await scene.deliver()
    assert (ended.cause, "x:1" in ended.detail) == (Cause.IMAGE_MISSING, True)


async def test_a_machine_without_sandboxes_is_waited_for_and_then_named():
    scene = await Scene(PATCHED, wait_s=60).set()
    scene.sandbox.broken = SandboxUnavailable("no engine", "start it")
    with pytest.raises(SandboxUnavailable):
        await scene.deliver()
    assert [type(recorded.event) for recorded in await scene.store.read_run(RUN)] == [ev.RunRequested]
    scene.patience._wait_s = 0.0
    (ended,) = await scene.deliver()
    assert (ended.attempt, ended.cause, ended.detail) == (0, Cause.SANDBOX_UNAVAILABLE, "no engine; start it")


async def test_an_engine_that_goes_away_costs_one_attempt_and_then_runs_wait_for_it():
    scene = await Scene(SandboxUnavailable("engine gone", "start it"), wait_s=60).set()
    with pytest.raises(SandboxUnavailable):
        await scene.deliver()
    scene.sandbox.broken = SandboxUnavailable("engine gone", "start it")
    with pytest.raises(SandboxUnavailable):
        await scene.deliver()
    scene.sandbox.ends, scene.sandbox.broken = [PATCHED], None
    scene.technologies.distrust("docker")
    begun, ended = await scene.deliver()
    assert (begun.attempt, type(ended)) == (2, ev.PatchProduced)


async def test_a_missing_blob_ends_the_run():
    scene = await Scene(PATCHED).set()
    scene.blobs.contents.clear()
    (ended,) = await scene.deliver()
    assert (ended.attempt, ended.cause) == (0, Cause.PLATFORM_FAILED)


async def judged(*ends, events=(), **options) -> tuple[Scene, ev.EvaluationRequested]:
    asked = evaluation_requested()
    scene = Scene(*ends, events=[started(1), produced(1), asked, *events], **options)
    return await scene.set(), asked


async def test_an_evaluation_starts_and_ends_in_the_log():
    scene, asked = await judged(GRADED)
    begun, ended = await scene.deliver(asked)
    assert (begun.evaluation_id, ended.evaluation_id, ended.cause) == ("e1", "e1", None)
    assert await scene.blobs.get(ended.outputs[0].content.digest) == b"<xml/>"
    assert scene.sandbox.specs[0].proxy_dir is None
    assert await scene.deliver(asked) == []


async def test_an_evaluation_waits_for_memory_that_others_have_and_is_given_back_when_there_is_none():
    scene, asked = await judged(GRADED)
    large = Want(position=0, memory_bytes=3 << 30)
    async with scene.evaluations.place(large, given_up=asyncio.Event(), wait_s=1) as placed:
        assert placed
        with pytest.raises(GiveBack):
            await scene.deliver(asked)
        waiting = asyncio.create_task(scene.deliver(asked))
        await asyncio.sleep(0)
        assert scene.sandbox.specs == []
    begun, ended = await waiting
    assert (type(begun), ended.cause) == (ev.EvaluationStarted, None)
    assert scene.evaluations.at_work == 0


async def test_a_broken_evaluation_is_tried_again_and_at_last_named():
    scene, asked = await judged(SandboxFailed(RUN, "broke"), max_attempts=2)
    with pytest.raises(SandboxFailed):
        await scene.deliver(asked)
    begun, ended = await scene.deliver(asked)
    assert (type(begun), ended.cause, ended.exit.exit_code) == (ev.EvaluationStarted, Cause.SANDBOX_FAILED, None)
    assert await scene.deliver(asked) == []


async def test_an_evaluation_lost_too_often_is_given_up():
    scene, asked = await judged(GRADED, max_attempts=1)
    scene.sandbox.ends = [asyncio.CancelledError()]
    with pytest.raises(asyncio.CancelledError):
        await scene.deliver(asked)
    scene.sandbox.ends = [GRADED]
    (ended,) = await scene.deliver(asked)
    assert ended.cause is Cause.LOST_WHILE_RUNNING_EVALUATION


async def test_an_evaluation_that_another_manager_began_anew_ends_and_its_result_is_refused():
    scene, asked = await judged(GRADED)
    watching = asyncio.create_task(scene.handlers.watch(0))

    async def while_overtaken(_spec, cancelled_event):
        await scene.store.append(RUN, [evaluation_started()])
        await asyncio.wait_for(cancelled_event.wait(), 5)
        return GRADED

    scene.sandbox.ends = [while_overtaken]
    added = await scene.deliver(asked, left_to_others=True)
    assert [type(event) for event in added] == [ev.EvaluationStarted] * 2
    watching.cancel()
    scene.sandbox.ends = [GRADED]
    assert [type(event) for event in await scene.deliver(asked)] == [ev.EvaluationStarted, ev.EvaluationSandboxExited]


async def test_a_late_evaluation_result_is_refused_even_when_nobody_told_it_to_end():
    scene, asked = await judged(GRADED)

    async def late(_spec, _cancelled):
        await scene.store.append(RUN, [evaluation_started()])
        return GRADED

    scene.sandbox.ends = [late]
    added = await scene.deliver(asked, left_to_others=True)
    assert [type(event) for event in added] == [ev.EvaluationStarted] * 2


async def test_a_run_cancelled_while_it_is_judged_keeps_the_log_of_its_tests():
    scene, asked = await judged(GRADED)

    async def meanwhile(_spec, _cancelled):
        await scene.store.append(RUN, [cancelled()])
        return GRADED

    scene.sandbox.ends = [meanwhile]
    *_, told = await scene.deliver(asked)
    assert (type(told), await scene.blobs.get(told.log.digest)) == (ev.EvaluationSandboxExited, b"graded")


async def test_a_cancelled_run_is_not_evaluated():
    scene, asked = await judged(GRADED, events=[cancelled()])
    assert await scene.deliver(asked) == []


async def test_without_a_free_slot_in_time_the_run_is_given_back_untouched():
    scene = await Scene(PATCHED, slots=1).set()
    async with scene.admission.place(Want(position=0), given_up=asyncio.Event(), wait_s=1):
        with pytest.raises(GiveBack):
            await scene.deliver()
    assert [type(recorded.event) for recorded in await scene.store.read_run(RUN)] == [ev.RunRequested]
    assert [type(event) for event in await scene.deliver()] == [ev.AgentStarted, ev.PatchProduced]


async def test_a_run_cancelled_while_it_waits_is_done_with():
    scene = await Scene(PATCHED, slots=1).set()
    scene.handlers._claim_s = 60
    async with scene.admission.place(Want(position=0), given_up=asyncio.Event(), wait_s=1):
        waiting = asyncio.create_task(scene.deliver())
        await asyncio.sleep(0.02)
        await scene.store.append(RUN, [cancelled()])
        assert scene.live.cancel(RUN) == 1
        assert [type(event) for event in await asyncio.wait_for(waiting, 5)] == [ev.RunCancelled]
    assert (scene.sandbox.specs, scene.admission.waiting, scene.admission.at_work) == ([], 0, 0)


async def test_an_attempt_that_another_manager_took_for_lost_ends_and_its_result_is_dropped():
    scene = await Scene(PATCHED).set()
    watching = asyncio.create_task(scene.handlers.watch(0))

    async def while_overtaken(_spec, cancelled_event):
        await scene.store.append(RUN, [started(2)])
        await asyncio.wait_for(cancelled_event.wait(), 5)
        return PATCHED

    scene.sandbox.ends = [while_overtaken]
    assert [event.attempt for event in await scene.deliver(left_to_others=True)] == [1, 2]
    watching.cancel()


async def test_a_full_disk_is_waited_for_and_then_named_as_ours():
    scene = await Scene(PATCHED, wait_s=60, min_free_bytes=1 << 60).set()
    with pytest.raises(SandboxUnavailable):
        await scene.deliver()
    scene.patience._wait_s = 0.0
    (ended,) = await scene.deliver()
    assert (ended.cause, ended.attempt) == (Cause.SANDBOX_UNAVAILABLE, 0)
    assert "RIDGES_MIN_FREE_BYTES" in ended.detail


async def test_the_live_log_of_a_sandbox_can_be_read_while_it_runs():
    scene = await Scene(PATCHED).set()

    async def talk(spec, _cancelled):
        spec.on_log(0, b"hello")
        live = scene.live.find(RUN, "agent")
        assert (live.phase, live.technology, live.attempt) == ("running", "docker", 1)
        assert live.tail.after(0) == ("hello", 5, 0)
        return PATCHED

    scene.sandbox.ends = [talk]
    assert len(await scene.deliver()) == 2
    assert scene.live.find(RUN, "agent") is None


# -- what it left is told while it is removed --------------------------------------------------------------------------


class Removal:
    """The end of a sandbox that says what it left, and is then removed for as long as the test wants."""

    def __init__(self, left: SandboxExit, error: Exception | None = None) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self._left, self._error = left, error

    async def __call__(self, spec, _cancelled):
        spec.told(self._left)
        self.begun.set()
        await self.may_end.wait()
        return self._error or self._left


async def told(scene: Scene, kind: type[ev.AnyEvent]) -> ev.AnyEvent:
    while True:
        for recorded in await scene.store.read_run(RUN):
            if isinstance(recorded.event, kind):
                return recorded.event
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", [ev.PatchProduced, ev.EvaluationSandboxExited])
async def test_what_a_sandbox_left_is_told_before_it_is_removed_and_its_slot_is_free_afterwards(kind):
    of_agent = kind is ev.PatchProduced
    removal = Removal(PATCHED if of_agent else GRADED)
    events = [] if of_agent else [started(1), produced(1), evaluation_requested()]
    scene = await Scene(removal, events=events).set()
    delivering = asyncio.create_task(scene.deliver(None if of_agent else events[-1]))
    await told(scene, kind)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not delivering.done()
    assert [live.kind for live in scene.live.all()] == ["agent" if of_agent else "evaluation"]
    assert scene.admission.at_work == (1 if of_agent else 0)
    removal.may_end.set()
    await delivering
    assert scene.live.ids == set()
    assert scene.admission.at_work == 0


async def test_a_removal_that_fails_costs_neither_the_result_nor_another_attempt():
    removal = Removal(PATCHED, SandboxFailed(RUN, "its control group does not go"))
    removal.may_end.set()
    scene = await Scene(removal).set()
    assert [type(event) for event in await scene.deliver()] == [ev.AgentStarted, ev.PatchProduced]


async def test_a_manager_that_goes_while_it_tells_removes_the_sandbox_first():
    removal = Removal(PATCHED)
    scene = await Scene(removal).set()
    put = scene.blobs.put

    async def never(*_):
        await asyncio.get_running_loop().create_future()

    scene.blobs.put = never
    delivering = asyncio.create_task(scene.deliver())
    await removal.begun.wait()
    delivering.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not delivering.done()
    removal.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    scene.blobs.put = put
    assert scene.live.ids == set()
    assert [event.attempt for event in await scene.deliver()] == [2, 2]
