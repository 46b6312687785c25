"""Costs folded straight from the events, sharing no code with the ledger, and reports brought to the same shape."""

from collections import defaultdict

from ridges.contracts import events as ev

KINDS = ("input", "cached_input", "output", "reasoning")
AMOUNTS = 12
"""Requests, four kinds of tokens, cost, calls failed, refused, cost of failures, estimated, settled, reserved."""
COST, NO_ANSWER, REFUSED, FAILED, ESTIMATED, SETTLED, RESERVED = range(5, AMOUNTS)


def independent_costs(events):
    """(dimension, key) -> amounts, folded call by call; no rows of zeros."""
    runs, calls, attempts, reserved_in, refusals, ended = {}, {}, {}, {}, [], set()
    for event in events:
        run_attempt = attempts.get(event.run_id, 0)
        if isinstance(event, ev.RunRequested):
            runs.setdefault(event.run_id, event)
        elif isinstance(event, ev.RunCancelled | ev.TestsFinished | ev.AgentStarted):
            if event.run_id not in runs or event.run_id in ended:
                continue  # it changes nothing
            if isinstance(event, ev.AgentStarted):
                attempts[event.run_id] = max(run_attempt, event.attempt)
            else:
                ended.add(event.run_id)
        elif isinstance(event, ev.InferenceRefused):
            refusals.append((event, run_attempt))
        elif hasattr(event, "call_id"):
            name = (event.run_id, event.call_id)
            reserved_in.setdefault(name, run_attempt)
            if better(calls.get(name), event):
                calls[name] = event
    sums = defaultdict(lambda: [0] * AMOUNTS)
    for (run_id, call_id), event in calls.items():
        where = (runs.get(run_id), reserved_in[run_id, call_id])
        add_call(sums, event, *where)
        add_to_providers(sums, event)
        add_to_kinds(sums, event)
    for event, run_attempt in refusals:
        keys = [("provider", "(refused)"), ("token_kind", "(other)")]
        for key in [*keys_of(event, runs.get(event.run_id), run_attempt), *keys]:
            sums[key][REFUSED] += 1
    return {key: row for key, row in sums.items() if any(row)}


def charged_attempts(events):
    """The attempts of every call that is charged by its outcome."""
    calls = {}
    for event in events:
        if hasattr(event, "call_id"):
            name = (event.run_id, event.call_id)
            calls[name] = event if better(calls.get(name), event) else calls[name]
    return [attempt for event in calls.values() for attempt in getattr(event, "attempts", ())]


def better(known, event):
    """Whether the event says more about the call than what is known."""
    if isinstance(event, ev.InferenceReserved):
        return known is None
    if isinstance(event, ev.InferenceSettled):
        if isinstance(known, ev.InferenceSettled):
            return (known.source, event.source) == ("maximum", "provider_record")
        if guessed(known):
            return event.source == "provider_record"
        return known is None or isinstance(known, ev.InferenceReserved)
    if guessed(event) and isinstance(known, ev.InferenceSettled):
        return known.source == "maximum"
    return not isinstance(known, ev.InferenceMade | ev.InferenceFailed)


def guessed(event):
    """What a gateway says of a call that it lost in a crash."""
    return (
        isinstance(event, ev.InferenceFailed)
        and [(a.provider, a.outcome, a.usage_source) for a in event.attempts]
        == [("(unknown)", "abandoned", "estimated")]
        and (event.attempts[0].usage, event.attempts[0].cost_nano_usd) == (event.usage, event.cost_nano_usd)
    )


def keys_of(event, run, run_attempt):
    return [
        ("run", event.run_id),
        ("attempt", f"{event.run_id}#{run_attempt}"),
        ("agent", f"{run.agent_name}@{run.agent.digest[7:19]}" if run else "(unknown)"),
        ("problem", run.problem_id if run else "(unknown)"),
        ("batch", run.batch_id or "(none)" if run else "(none)"),
        ("model", event.model or "(none)"),
        ("day", event.time.strftime("%Y-%m-%d")),
        ("total", "total"),
    ]


def amounts_of(event):
    """What the whole call adds."""
    row = [0] * AMOUNTS
    if isinstance(event, ev.InferenceReserved):
        row[RESERVED] = event.cost_nano_usd
        return row
    row[:6] = [
        int(isinstance(event, ev.InferenceMade)),
        *(getattr(event.usage, kind) for kind in KINDS),
        event.cost_nano_usd,
    ]
    if isinstance(event, ev.InferenceSettled):
        row[SETTLED] = event.cost_nano_usd
        return row
    row[NO_ANSWER] = int(isinstance(event, ev.InferenceFailed))
    row[FAILED] = sum(a.cost_nano_usd for a in event.attempts if a.outcome != "ok")
    row[ESTIMATED] = sum(a.cost_nano_usd for a in event.attempts if a.usage_source == "estimated")
    rest = event.cost_nano_usd - sum(a.cost_nano_usd for a in event.attempts)
    if isinstance(event, ev.InferenceFailed):
        row[FAILED] += rest
    return row


def add(row, amounts):
    row[:] = [a + b for a, b in zip(row, amounts, strict=True)]


def add_call(sums, event, run, run_attempt):
    for key in keys_of(event, run, run_attempt):
        add(sums[key], amounts_of(event))


def add_to_providers(sums, event):
    whole = amounts_of(event)
    if isinstance(event, ev.InferenceReserved | ev.InferenceSettled):
        add(sums["provider", "(reserved)" if isinstance(event, ev.InferenceReserved) else "(settled)"], whole)
        return
    for attempt in event.attempts:
        part = [0, *(getattr(attempt.usage, kind) for kind in KINDS), attempt.cost_nano_usd, *[0] * 6]
        part[FAILED] = attempt.cost_nano_usd * (attempt.outcome != "ok")
        part[ESTIMATED] = attempt.cost_nano_usd * (attempt.usage_source == "estimated")
        add(sums["provider", attempt.provider], part)
        whole = [a - b for a, b in zip(whole, part, strict=True)]
    counts = [whole[0], *[0] * 5, whole[NO_ANSWER], *[0] * 5]
    add(sums["provider", event.attempts[-1].provider if event.attempts else "(unattributed)"], counts)
    add(sums["provider", "(unattributed)"], [a - b for a, b in zip(whole, counts, strict=True)])


def add_to_kinds(sums, event):
    whole = amounts_of(event)
    for attempt in getattr(event, "attempts", ()):
        for kind in KINDS:
            cost = getattr(attempt.usage, kind) * getattr(attempt.price, kind) // 1_000_000
            part = [0] * AMOUNTS
            part[COST] = cost
            part[FAILED] = cost * (attempt.outcome != "ok")
            part[ESTIMATED] = cost * (attempt.usage_source == "estimated")
            add(sums["token_kind", kind], part)
            whole = [a - b for a, b in zip(whole, part, strict=True)]
    for place, kind in enumerate(KINDS, 1):
        sums["token_kind", kind][place] += whole[place]
        whole[place] = 0
    add(sums["token_kind", "(other)"], whole)


def reported_costs(reports):
    """CostReports of all dimensions in the shape of ``independent_costs``; each must add up to its total."""
    found = {}
    for report in reports:
        rows = [_row(row) for row in report.rows]
        sums = [sum(column) for column in zip(*rows, strict=True)] or [0] * AMOUNTS
        assert sums == _row(report.total), f"the rows by {report.by} do not add up to the total"
        found |= {(report.by, row.key): _row(row) for row in report.rows}
        if any(sums):
            assert found.setdefault(("total", "total"), sums) == sums, "every cut has the same total"
    return found


def _row(row):
    return [
        row.requests,
        *(getattr(row.usage, kind) for kind in KINDS),
        row.cost_nano_usd,
        row.requests_failed,
        row.requests_refused,
        row.failed_nano_usd,
        row.estimated_nano_usd,
        row.settled_nano_usd,
        row.reserved_nano_usd,
    ]
