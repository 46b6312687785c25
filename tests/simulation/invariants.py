"""What must hold after every seed, whatever went wrong in it."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from simulation.providers import Billed
from simulation.services import MAX_ATTEMPTS
from unit.ledger.independent_fold import independent_costs, reported_costs

from ridges.contracts import events as ev
from ridges.contracts.codec import encode
from ridges.contracts.faults import Cause
from ridges.contracts.lifecycle import RunState
from ridges.contracts.subjects import event_subject
from ridges.ledger.passes.verify import verify

Log = list[tuple[int, ev.AnyEvent]]
COST_DIMENSIONS = ("run", "attempt", "agent", "problem", "batch", "model", "provider", "day", "token_kind")
ENDS_AS = {
    Cause.AGENT_RAISED: "raises",
    Cause.AGENT_EXITED: "partial",
    Cause.PATCH_EMPTY: "nothing",
    Cause.SANDBOX_UNAVAILABLE: "missing",
}
"""Causes that only an agent (or sandbox) which ended so can have."""


def broken(world, log: Log) -> list[str]:
    """Every invariant that does not hold."""
    checks = (
        _acknowledged,
        _every_run_ends,
        _attempts,
        _no_overspend,
        _books,
        _verdicts,
        _blame,
        _poison,
        _ledger,
        _verified,
    )
    return [f"{check.__name__[1:].replace('_', ' ')}: {what}" for check in checks for what in check(world, log)]


def _acknowledged(world, log: Log) -> Iterator[str]:
    positions = defaultdict(list)
    for position, event in log:
        positions[event.id].append(position)
    for service, event_id, position in world.sea.acknowledged:
        if positions.get(event_id) != [position]:
            yield f"event {event_id} of {service}, acknowledged at {position}, stands at {positions.get(event_id)}"
    for event_id, found in positions.items():
        if len(found) > 1:
            yield f"event {event_id} stands at {found}"
    requested = Counter(event.run_id for _, event in log if isinstance(event, ev.RunRequested))
    for run_id in world.accepted:
        if requested[run_id] != 1:
            yield f"run {run_id} was accepted and is {requested[run_id]} times in the log"


def _every_run_ends(world, log: Log) -> Iterator[str]:
    queries = world.ledger.service.queries
    for run_id, run in world.runs().items():
        if run is None or not run.ended:
            yield f"run {run_id} is {run and run.state}"
            continue
        row = queries.row(run_id)
        if row is None or (row.state, row.verdict, row.cause) != (run.state, run.verdict, run.cause):
            yield f"run {run_id} is {run.state} {run.verdict} {run.cause}, the ledger says {row}"
    for parked in world.sea.memory._parked:
        if parked.position > 0:
            yield f"parked: {parked.subject}: {parked.error}"


def _attempts(world, log: Log) -> Iterator[str]:
    attempts, evaluations = Counter(), Counter()
    for position, event in log:
        if isinstance(event, ev.AgentStarted):
            attempts[event.run_id] += 1
            if event.attempt != attempts[event.run_id] or event.attempt > MAX_ATTEMPTS:
                yield f"attempt {event.attempt} of {event.run_id} at {position} is its {attempts[event.run_id]}. start"
        elif isinstance(event, ev.EvaluationStarted):
            evaluations[event.evaluation_id] += 1
            if evaluations[event.evaluation_id] > MAX_ATTEMPTS:
                yield f"evaluation {event.evaluation_id} started {evaluations[event.evaluation_id]} times"


def _no_overspend(world, log: Log) -> Iterator[str]:
    """Used and reserved together stay within the limits, at every single event of the log."""
    limits = {event.run_id: event.limits.model for _, event in log if isinstance(event, ev.RunRequested)}
    used, opened, closed, keys = Counter(), defaultdict(dict), set(), Counter()
    for position, event in log:
        run_id = event.run_id
        if isinstance(event, ev.InferenceReserved) and event.call_id not in closed:
            opened[run_id][event.call_id] = event
        elif isinstance(event, ev.InferenceMade | ev.InferenceFailed | ev.InferenceSettled):
            reserved = opened[run_id].pop(event.call_id, None)
            if isinstance(event, ev.InferenceMade) and reserved is not None and reserved.idempotency_key is not None:
                keys[run_id, reserved.idempotency_key] += 1
            if event.call_id in closed:
                continue
            closed.add(event.call_id)
            used[run_id] += event.cost_nano_usd
            if reserved is not None and event.cost_nano_usd > reserved.cost_nano_usd:
                yield f"call {event.call_id} of {run_id} cost more than was reserved (position {position})"
        else:
            continue
        total = used[run_id] + sum(each.cost_nano_usd for each in opened[run_id].values())
        if total > limits[run_id].max_cost_nano_usd:
            yield f"run {run_id} may use {limits[run_id].max_cost_nano_usd}, {total} at position {position}"
        if len(opened[run_id]) > limits[run_id].max_concurrency:
            yield f"run {run_id} has {len(opened[run_id])} calls in flight at position {position}"
    for (run_id, key), made in keys.items():
        if made > 1:
            yield f"run {run_id} paid {made} calls under the key {key}"


def _books(world, log: Log) -> Iterator[str]:
    """What providers billed is in the log, once, to the token; or its call was charged by estimate or maximum."""
    billed = Counter(world.books.billed)
    charged: Counter[Billed] = Counter()
    estimated: Counter[str] = Counter()
    closed: set[str] = set()
    for _, event in log:
        if isinstance(event, ev.InferenceSettled):
            estimated[event.run_id] += 1
        if not isinstance(event, ev.InferenceMade | ev.InferenceFailed) or event.call_id in closed:
            continue
        closed.add(event.call_id)
        for attempt in event.attempts:
            if attempt.usage_source == "provider":
                usage = attempt.usage
                charged[Billed(event.run_id, attempt.provider, usage.input, usage.output)] += 1
            elif attempt.usage_source == "estimated":
                estimated[event.run_id] += 1
    for extra in (charged - billed).elements():
        yield f"charged, but no provider billed it: {extra}"
    missing = Counter(each.run_id for each in (billed - charged).elements())
    for run_id, count in missing.items():
        if count > estimated[run_id]:
            yield f"{count} answers of providers to {run_id} are not charged, {estimated[run_id]} calls by estimate"


def _verdicts(world, log: Log) -> Iterator[str]:
    reference, patches = world.reference(), {}
    for _, event in log:
        if isinstance(event, ev.PatchProduced):
            patches[event.run_id, event.attempt] = world.sea.blobs.contents[event.patch.digest]
    cancelled = {event.run_id for _, event in log if isinstance(event, ev.RunCancelled)}
    for run_id, run in world.runs().items():
        if run is None:
            continue
        if run.state is RunState.FINISHED:
            solved = patches.get((run_id, run.attempt)) == reference
            if (run.verdict == "resolved") != solved:
                yield f"run {run_id} is {run.verdict}, but its patch is {'right' if solved else 'wrong'}"
        if run.cause is Cause.CANCELLED and run_id not in cancelled:
            yield f"run {run_id} was cancelled by nobody"
        needed = ENDS_AS.get(run.cause) if run.cause else None
        if needed is not None and needed not in world.endings.get(run_id, ()):
            yield f"run {run_id} ended with {run.cause}, but its agents did {world.endings.get(run_id)}"
        if run.state is RunState.ERROR and run.cause not in ENDS_AS and run.cause is not Cause.CANCELLED:
            if run.cause in (Cause.AGENT_TIMED_OUT, Cause.PROVIDER_FAILED, Cause.BUDGET_SPENT):
                continue  # slow and failing providers are enough, and what agents spend
            quiet = world.kills == 0 and not any(map(_platform_failed, world.endings.get(run_id, ())))
            if quiet and world.weather.twice == 0.0:
                yield f"run {run_id} ended with {run.cause} ({run.detail}) though nothing went wrong"


def _blame(world, log: Log) -> Iterator[str]:
    """Budgets and providers are blamed only where a call was refused, or failed."""
    refused = {event.run_id for _, event in log if isinstance(event, ev.InferenceRefused) and event.reason == "cost"}
    failed = {event.run_id for _, event in log if isinstance(event, ev.InferenceFailed)}
    for run_id, run in world.runs().items():
        if run and run.cause is Cause.BUDGET_SPENT and run_id not in refused:
            yield f"run {run_id} has spent its budget, and no call of it was refused for that"
        if run and run.cause is Cause.PROVIDER_FAILED and run_id not in failed:
            yield f"run {run_id} failed for its providers, and no call of it failed"


def _poison(world, log: Log) -> Iterator[str]:
    """What nobody can read is kept with the reason, and holds nobody up."""
    parked = {(each.queue, each.position): each for each in world.sea.memory._parked}
    for name, queue in world.sea.memory.queues.items():
        for position, content in queue.poison.items():
            kept = parked.get((name, position))
            if kept is None or kept.content != content.decode(errors="replace") or not kept.error:
                yield f"{content!r} in the queue {name} is {kept}"


def _platform_failed(ending: str) -> bool:
    return ending in ("broken", "missing")


def _ledger(world, log: Log) -> Iterator[str]:
    """Costs by every cut are those of a fold that shares no code with the ledger."""
    queries = world.ledger.service.queries
    reported = reported_costs(map(queries.costs, COST_DIMENSIONS))
    expected = independent_costs([event for _, event in log])
    for key in sorted(reported.keys() | expected.keys()):
        if reported.get(key) != expected.get(key):
            yield f"costs by {key}: the ledger has {reported.get(key)}, the log {expected.get(key)}"


def _verified(world, log: Log) -> Iterator[str]:
    raw = [
        (position, event_subject(event.run_id, type(event).__name__).encode(), b"", encode(event))
        for position, event in log
    ]
    result = verify([raw], total=len(raw), grace_s=0.0, blobs=None, report=lambda _: None)
    for finding in result.findings:
        yield f"ridges ledger verify: {finding.kind}: {finding.detail} (position {finding.position})"
