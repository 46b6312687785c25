"""Costs folded straight from the events, sharing no code with the ledger, and reports brought to the same shape."""

from collections import defaultdict

from ridges.contracts import events as ev

KINDS = ("input", "cached_input", "output", "reasoning")


def independent_costs(events):
    """(dimension, key) -> [requests, tokens by kind ..., nano-USD], folded call by call; no rows of zeros."""
    runs, calls = {}, {}
    for event in events:
        if isinstance(event, ev.RunRequested):
            runs.setdefault(event.run_id, event)
        elif isinstance(event, ev.InferenceSettled):
            calls.setdefault((event.run_id, event.call_id), event)
        elif isinstance(event, ev.InferenceMade | ev.InferenceFailed):
            known = calls.get((event.run_id, event.call_id))
            if known is None or isinstance(known, ev.InferenceSettled):
                calls[event.run_id, event.call_id] = event
    sums = defaultdict(lambda: [0] * 6)
    for (run_id, _), event in calls.items():
        add_whole_call(sums, event, run_id, runs.get(run_id))
        add_to_providers(sums, event)
    return {key: row for key, row in sums.items() if any(row)}


def add_whole_call(sums, event, run_id, run):
    keys = {
        "run": run_id,
        "agent": f"{run.agent_name}@{run.agent.digest[7:19]}" if run else "(unknown)",
        "problem": run.problem_id if run else "(unknown)",
        "model": event.model,
        "day": event.time.strftime("%Y-%m-%d"),
        "total": "total",
    }
    answered = isinstance(event, ev.InferenceMade)
    whole = [int(answered), *(getattr(event.usage, kind) for kind in KINDS), event.cost_nano_usd]
    for dimension, key in keys.items():
        sums[dimension, key] = [a + b for a, b in zip(sums[dimension, key], whole, strict=True)]


def add_to_providers(sums, event):
    if isinstance(event, ev.InferenceSettled):
        sums["provider", "(settled)"][5] += event.cost_nano_usd
        return
    for attempt in event.attempts:
        row = sums["provider", attempt.provider]
        for index, kind in enumerate(KINDS, 1):
            row[index] += getattr(attempt.usage, kind)
        row[5] += attempt.cost_nano_usd
    if isinstance(event, ev.InferenceMade):
        sums["provider", event.attempts[-1].provider if event.attempts else "(unattributed)"][0] += 1


def reported_costs(reports):
    """CostReports of all dimensions in the shape of ``independent_costs``; each must add up to its total."""
    found = {}
    for report in reports:
        rows = [_row(row) for row in report.rows]
        sums = [sum(column) for column in zip(*rows, strict=True)] or [0] * 6
        assert sums == _row(report.total), f"the rows by {report.by} do not add up to the total"
        found |= {(report.by, row.key): _row(row) for row in report.rows}
        if any(sums):
            assert found.setdefault(("total", "total"), sums) == sums, "every cut has the same total"
    return found


def _row(row):
    return [row.requests, *(getattr(row.usage, kind) for kind in KINDS), row.cost_nano_usd]
