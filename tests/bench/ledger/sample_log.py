"""A log like one of real runs: 51 events a run, 22 model calls each, 16 runs at a time, totals known.

The lean one has events of some 260 bytes: nothing but model calls after the request, short ids, no attempts (their cost
is unattributed), and no field that has its default.
"""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.codec import encode
from ridges.contracts.limits import RunLimits, SandboxLimits
from ridges.contracts.usage import TokenPrice, TokenUsage, cost_nano_usd

CALLS_PER_RUN = 22
START = datetime(2026, 1, 1, tzinfo=UTC)
OFFERS = [
    (
        "chutes",
        "vendor/large",
        TokenPrice(input=150_000_000, output=600_000_000, cached_input=75_000_000, reasoning=600_000_000),
    ),
    (
        "targon",
        "large",
        TokenPrice(input=140_500_100, output=550_000_000, cached_input=70_250_050, reasoning=550_000_000),
    ),
]
REF = ref_to(b"x", "text/plain")
EXIT = ev.ExitFacts(exit_code=0, wall_s=390.5, cpu_s=20.25, peak_memory_bytes=123_456_789)
TESTS = tuple(ev.TestResult(name=f"test_a.py::test_{n}", category="fail_to_pass", status="pass") for n in range(5))


class SampleLog:
    """Iterate over (subject id, event type, event id, content); then the totals are known."""

    def __init__(self, events: int, seed: int = 1, *, lean: bool = False) -> None:
        self._events, self._random, self._lean = events, random.Random(seed), lean
        self.runs = self.calls = 0
        self.cost_nano_usd = 0
        self.usage = TokenUsage()
        self._number = 0
        self._time = START

    def __iter__(self):
        live = []
        for _ in range(self._events):
            while len(live) < 16:
                live.append(self._a_run(self._uuid()))
                self.runs += 1
            place = self._random.randrange(16)
            event = next(live[place], None)
            while event is None:
                live[place] = self._a_run(self._uuid())
                self.runs += 1
                event = next(live[place])
            if isinstance(event, ev.TestsFinished):
                live[place] = self._a_run(self._uuid())
                self.runs += 1
            yield event

    def contents(self):
        """(subject, event id, stored bytes)."""
        for event in self:
            content = without_defaults(event) if self._lean else encode(event)
            yield f"ev.{event.run_id}.{type(event).__name__}", event.id, content

    def _uuid(self):
        self._number += 1
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _envelope(self, run_id):
        self._time += timedelta(milliseconds=40)
        if self._lean:
            return {"id": self._uuid()[-12:], "run_id": run_id, "time": self._time}
        return {"id": self._uuid(), "run_id": run_id, "time": self._time, "correlation_id": run_id}

    def _a_run(self, run_id):
        def e(event_type, /, **fields):
            return event_type(**self._envelope(run_id), **fields)

        yield e(
            ev.RunRequested,
            problem_id=f"fix-{self.runs % 20}",
            problem_digest=REF.digest,
            statement=REF,
            workspace=REF,
            agent=ref_to(b"%d" % (self.runs % 7), "text/x-python"),
            agent_name=f"agent{self.runs % 7}.py",
            limits=RunLimits(),
            batch_id=f"batch-{self.runs // 500}",
        )
        if self._lean:
            for _ in range(CALLS_PER_RUN):
                yield from self._a_lean_call(e)
            return
        yield e(ev.AgentStarted, attempt=1, manager="m1", sandbox="docker")
        for _ in range(CALLS_PER_RUN):
            yield from self._a_call(e)
        yield e(ev.PatchProduced, attempt=1, patch=REF, partial=False, cause=None, log=REF, exit=EXIT)
        yield e(
            ev.EvaluationRequested,
            evaluation_id="e",
            attempt=1,
            bundle=REF,
            command=("python", "grade.py"),
            outputs=(),
            limits=SandboxLimits(),
            timeout_s=600,
        )
        yield e(ev.EvaluationStarted, evaluation_id="e", manager="m1", sandbox="docker")
        yield e(ev.EvaluationSandboxExited, evaluation_id="e", exit=EXIT, outputs=(), log=REF)
        yield e(ev.TestsFinished, evaluation_id="e", verdict="resolved", tests=TESTS, log=REF)

    def _a_call(self, e):
        call_id = self._uuid()
        yield e(ev.InferenceReserved, call_id=call_id, model="large", cost_nano_usd=9_000_000, tokens=30_000)
        chance = self._random
        attempts = []
        for failed in (True, False) if chance.random() < 0.05 else (False,):
            provider, served, price = OFFERS[chance.randrange(2)]
            usage = (
                TokenUsage()
                if failed
                else TokenUsage(
                    input=chance.randrange(20_000),
                    cached_input=chance.randrange(9_000),
                    output=chance.randrange(2_000),
                    reasoning=chance.randrange(500),
                )
            )
            attempts.append(
                ev.InferenceAttempt(
                    provider=provider,
                    served_model=served,
                    outcome="http_error" if failed else "ok",
                    status=503 if failed else 200,
                    latency_ms=1234,
                    usage=usage,
                    usage_source="none" if failed else "provider",
                    price=price,
                    price_list="config-0123456789abcdef",
                    cost_nano_usd=cost_nano_usd(usage, price),
                )
            )
        cost = sum(a.cost_nano_usd for a in attempts)
        yield self._made(e, call_id, attempts[-1].usage, cost, attempts=tuple(attempts), request=REF, reply=REF)

    def _a_lean_call(self, e):
        call_id = self._uuid()[-12:]
        yield e(ev.InferenceReserved, call_id=call_id, model="large", cost_nano_usd=9_000_000, tokens=30_000)
        usage = TokenUsage(input=self._random.randrange(20_000), output=self._random.randrange(2_000))
        yield self._made(e, call_id, usage, cost_nano_usd(usage, OFFERS[0][2]), attempts=())

    def _made(self, e, call_id, usage, cost, **more):
        """Counted in the totals."""
        self.calls += 1
        self.cost_nano_usd += cost
        self.usage += usage
        fixed = {"kind": "chat", "model": "large", "streamed": True}
        return e(ev.InferenceMade, call_id=call_id, usage=usage, cost_nano_usd=cost, **fixed, **more)


def without_defaults(event: ev.Event) -> bytes:
    """As short as an event can be stored."""
    fields = msgspec.json.decode(encode(event))
    optional = {field.name: field.default for field in msgspec.structs.fields(event) if not field.required}
    kept = {name: value for name, value in fields.items() if name not in optional or value != optional[name]}
    if "usage" in kept:
        kept["usage"] = {kind: tokens for kind, tokens in kept["usage"].items() if tokens}
    return msgspec.json.encode(kept)
