"""Any event, made by hypothesis: types and constraints come from the structs."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.faults import Cause
from ridges.contracts.limits import RunLimits, SandboxLimits
from ridges.contracts.usage import TokenPrice, TokenUsage

RUN_ID = "r-1"
BLOB = ref_to(b"x", "text/plain")
NOW = datetime(2026, 11, 22, tzinfo=UTC)
PRICE = TokenPrice(input=1, cached_input=1, output=1, reasoning=1)

text = st.text(max_size=20)
attempts = st.integers(0, 4)
evaluations = st.sampled_from(["e-1", "e-2"])
causes = st.sampled_from(Cause)
money = st.integers(0, 10**12)
usages = st.builds(TokenUsage, input=st.integers(0, 10**6), output=st.integers(0, 10**6))
exits = st.builds(ev.ExitFacts, exit_code=st.none() | st.integers(-64, 255), wall_s=st.floats(0, 1e6))
envelope = {
    "id": st.uuids().map(str),
    "run_id": st.just(RUN_ID),
    "time": st.datetimes(timezones=st.just(UTC)),
    "causation_id": st.none() | text,
}
inference_attempts = st.builds(
    ev.InferenceAttempt,
    provider=text,
    served_model=text,
    outcome=st.sampled_from(["ok", "timeout", "cut"]),
    latency_ms=st.integers(0, 10**6),
    usage=usages,
    usage_source=st.just("provider"),
    price=st.just(PRICE),
    price_list=text,
    cost_nano_usd=money,
)
call = {"call_id": text, "model": text, "cost_nano_usd": money}
BY_TYPE = {
    ev.ProblemPublished: {
        "problem_id": text,
        "kind": st.sampled_from(["fix", "create"]),
        "title": text,
        "problem_digest": text,
        "statement": st.just(BLOB),
        "workspace": st.just(BLOB),
    },
    ev.RunRequested: {
        "problem_id": text,
        "problem_digest": text,
        "statement": st.just(BLOB),
        "workspace": st.just(BLOB),
        "agent": st.just(BLOB),
        "agent_name": text,
        "limits": st.just(RunLimits()),
    },
    ev.RunCancelled: {"reason": text},
    ev.AgentStarted: {"attempt": attempts, "manager": text, "sandbox": text},
    ev.PatchProduced: {
        "attempt": attempts,
        "patch": st.just(BLOB),
        "partial": st.booleans(),
        "cause": st.none() | causes,
        "log": st.just(BLOB),
        "exit": exits,
    },
    ev.AgentFailed: {"attempt": attempts, "cause": causes, "detail": text},
    ev.EvaluationRequested: {
        "evaluation_id": evaluations,
        "attempt": attempts,
        "bundle": st.just(BLOB),
        "command": st.lists(text).map(tuple),
        "outputs": st.just((ev.SandboxFile(path="/sandbox/out", max_bytes=1),)),
        "limits": st.just(SandboxLimits()),
        "timeout_s": st.integers(1, 100),
    },
    ev.EvaluationStarted: {"evaluation_id": evaluations, "manager": text, "sandbox": text},
    ev.EvaluationSandboxExited: {"evaluation_id": evaluations, "exit": exits, "outputs": st.just(())},
    ev.TestsFinished: {
        "evaluation_id": evaluations,
        "verdict": st.sampled_from(["resolved", "unresolved"]),
        "tests": st.just((ev.TestResult(name="t", category="default", status="pass"),)),
        "cause": st.none() | causes,
    },
    ev.EvaluationFailed: {"evaluation_id": evaluations, "cause": causes, "detail": text},
    ev.InferenceReserved: call | {"tokens": st.integers(0, 10**6)},
    ev.InferenceMade: call
    | {
        "kind": st.just("chat"),
        "streamed": st.booleans(),
        "attempts": st.lists(inference_attempts, max_size=2).map(tuple),
        "usage": usages,
    },
    ev.InferenceFailed: call
    | {
        "kind": st.just("chat"),
        "attempts": st.just(()),
        "usage": usages,
        "status": st.integers(400, 599),
        "detail": text,
    },
    ev.InferenceRefused: {
        "reason": st.sampled_from(["cost", "model"]),
        "status": st.integers(400, 499),
        "model": st.none() | text,
        "detail": text,
    },
    ev.InferenceSettled: call | {"source": st.just("maximum"), "usage": usages},
    ev.PriceListPublished: {
        "price_list": text,
        "prices": st.dictionaries(text, st.just(PRICE), max_size=2),
        "source": text,
        "effective_at": st.just(NOW),
    },
}
any_event = st.one_of([st.builds(cls, **envelope, **fields) for cls, fields in BY_TYPE.items()])
requested = st.builds(ev.RunRequested, **envelope, **BY_TYPE[ev.RunRequested])
