"""Events and a wired ledger for the tests of the ledger."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.memory_store import MemoryEventStore
from ridges.chassis.ports import Recorded
from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.limits import RunLimits
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.ledger import queries as reading
from ridges.ledger import refusals as refusing
from ridges.ledger.app import Ledger
from ridges.ledger.projections import apply
from ridges.ledger.settings import LedgerSettings

START = datetime(2026, 1, 31, 23, 0, tzinfo=UTC)
AGENT = b"def agent_main(input):\n    return ''\n"
RUN = "11111111-1111-4111-8111-111111111111"
OTHER_RUN = "11111111-2222-4222-8222-222222222222"
USED = TokenUsage(input=5, output=3)
PRICE = TokenPrice(input=1, output=2, cached_input=1, reasoning=2)


class SetClock:
    """Time stands still until it is moved; ids count up."""

    def __init__(self, now=START):
        self.time, self.ids = now, 0

    def now(self):
        return self.time

    def monotonic(self):
        return self.time.timestamp()

    def new_id(self):
        self.ids += 1
        return str(UUID(int=self.ids))

    def move(self, **delta):
        self.time += timedelta(**delta)


class Author:
    """Writes events with fresh ids and rising times."""

    def __init__(self):
        self.clock = SetClock()

    def _envelope(self, run_id):
        self.clock.move(seconds=1)
        return {"id": self.clock.new_id(), "run_id": run_id, "time": self.clock.now()}

    def event(self, kind, run_id=RUN, /, **fields):
        return kind(**(self._envelope(run_id) | fields))

    def published(self, problem_id="fix-a", **fields):
        given = {
            "problem_id": problem_id,
            "kind": "fix",
            "title": "A bug",
            "problem_digest": "sha256:" + "a" * 64,
            "statement": ref_to(b"do it", "text/markdown"),
            "workspace": ref_to(b"tar", "application/x-tar"),
        }
        return self.event(ev.ProblemPublished, f"problem-{problem_id}", **(given | fields))

    def requested(self, run_id=RUN, problem_id="fix-a", agent=AGENT, **fields):
        given = {
            "problem_id": problem_id,
            "problem_digest": "sha256:" + "a" * 64,
            "statement": ref_to(b"do it", "text/markdown"),
            "workspace": ref_to(b"tar", "application/x-tar"),
            "agent": ref_to(agent, "text/x-python"),
            "agent_name": "agent.py",
            "limits": RunLimits(),
        }
        return self.event(ev.RunRequested, run_id, **(given | fields))

    def started(self, run_id=RUN, attempt=1):
        return self.event(ev.AgentStarted, run_id, attempt=attempt, manager="m1", sandbox="bubblewrap")

    def patched(self, run_id=RUN, attempt=1, patch=b"diff\n", log=b"log\n", **fields):
        given = {
            "attempt": attempt,
            "patch": ref_to(patch, "text/x-diff"),
            "partial": False,
            "cause": None,
            "log": ref_to(log, "text/plain"),
            "exit": ev.ExitFacts(exit_code=0),
        }
        return self.event(ev.PatchProduced, run_id, **(given | fields))

    def tested(self, run_id=RUN, verdict="resolved", statuses=("pass", "pass"), **fields):
        tests = tuple(
            ev.TestResult(name=f"test_a.py::test_{n}", category="fail_to_pass", status=status)
            for n, status in enumerate(statuses)
        )
        given = {"evaluation_id": "e1", "verdict": verdict, "tests": tests}
        return self.event(ev.TestsFinished, run_id, **(given | fields))

    def reserved(self, call_id="c1", run_id=RUN, cost=100, model="m"):
        return self.event(
            ev.InferenceReserved, run_id, call_id=call_id, model=model, cost_nano_usd=cost, tokens=cost * 10
        )

    def attempt(self, provider="p", cost=10, usage=USED, outcome="ok"):
        return ev.InferenceAttempt(
            provider=provider,
            served_model="served",
            outcome=outcome,
            latency_ms=1,
            usage=usage,
            usage_source="provider",
            price=PRICE,
            price_list="list",
            cost_nano_usd=cost,
        )

    def made(self, call_id="c1", run_id=RUN, attempts=None, model="m", **fields):
        return self._outcome(ev.InferenceMade, call_id, run_id, attempts, model, {"streamed": False} | fields)

    def failed(self, call_id="c1", run_id=RUN, attempts=None, model="m", **fields):
        return self._outcome(
            ev.InferenceFailed, call_id, run_id, attempts, model, {"status": 502, "detail": "no"} | fields
        )

    def lost(self, call_id="c1", run_id=RUN, cost=50, model="m", usage=USED):
        """What a gateway that was killed during the call says of it when it is there again."""
        attempt = self.attempt(ev.LOST, cost, usage, "abandoned")
        attempt = msgspec.structs.replace(attempt, usage_source="estimated", price_list=ev.LOST)
        return self.failed(call_id, run_id, [attempt], model, status=500)

    def _outcome(self, kind, call_id, run_id, attempts, model, fields):
        attempts = (self.attempt(),) if attempts is None else tuple(attempts)
        usage, cost = TokenUsage(), 0
        for attempt in attempts:
            usage, cost = usage + attempt.usage, cost + attempt.cost_nano_usd
        given = {
            "call_id": call_id,
            "kind": "chat",
            "model": model,
            "attempts": attempts,
            "usage": usage,
            "cost_nano_usd": cost,
        }
        return self.event(kind, run_id, **(given | fields))

    def settled(self, call_id="c1", run_id=RUN, cost=100, model="m", **fields):
        given = {"call_id": call_id, "model": model, "source": "maximum", "cost_nano_usd": cost, "usage": TokenUsage()}
        return self.event(ev.InferenceSettled, run_id, **(given | fields))


def recorded(*events, after=0):
    return [Recorded(position=position, event=event) for position, event in enumerate(events, after + 1)]


class Wired:
    """A ledger on stores in memory, its tables in a folder."""

    def __init__(self, folder, stack, log=(), **settings):
        given = {"blobs_url": "file:///none", "state_dir": folder}
        self.config = LedgerSettings(**(given | settings))
        self.clock = SetClock()
        self.store = MemoryEventStore(self.clock)
        self.store._log += log
        self.blobs = MemoryBlobStore()
        path = folder / "projections.sqlite"
        self.projections = stack.enter_context(apply.opened(path))
        self.queries = stack.enter_context(reading.opened(path))
        self.refusals = stack.enter_context(refusing.opened(folder / "refusals.sqlite"))
        self.ledger = Ledger(
            self.config,
            store=self.store,
            blobs=self.blobs,
            clock=self.clock,
            projections=self.projections,
            queries=self.queries,
            refusals=self.refusals,
        )
        self.requests = self.ledger.requests
        self.author = Author()

    async def append(self, *events):
        position = 0
        for event in events:
            position = await self.store.append(event.run_id, [event])
        return position

    async def caught_up(self):
        assert await self.ledger.projector.reached(await self.store.last_position(), 5)

    async def add(self, *events):
        """Append, then wait until the tables hold it."""
        await self.append(*events)
        await self.caught_up()


@asynccontextmanager
async def wired_ledger(folder, **settings):
    """A ledger whose projector runs."""
    async with AsyncExitStack() as stack:
        wired = Wired(folder, stack, **settings)
        following = asyncio.create_task(wired.ledger.projector.run())
        try:
            yield wired
        finally:
            wired.ledger.hub.close()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
