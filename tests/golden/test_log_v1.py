"""A log that the first release wrote, out of real runs, must be readable and give the same totals for ever.

Never change ``events.jsonl.zst`` or ``totals.json``: when this test fails, it is the fold (or an upcast) that is wrong.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from unit.ledger.independent_fold import independent_costs, reported_costs

from ridges.chassis.ports import Recorded
from ridges.contracts.codec import decode
from ridges.ledger.cost_reports import COST_DIMENSIONS
from ridges.ledger.passes.log_source import raw_of
from ridges.ledger.passes.rebuild import rebuild
from ridges.ledger.passes.verify import verify
from ridges.ledger.projections.apply import Projections
from ridges.ledger.projections.schema import open_projections
from ridges.ledger.queries import Queries, RunFilter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FOLDER = Path(__file__).with_name("log_v1")
RUN_FIELDS = (
    *("run_id", "problem", "state", "verdict", "cause", "attempt", "requests", "cost_nano_usd", "reserved_nano_usd"),
    *("tests_passed", "tests_total"),
)
KINDS = ("input", "cached_input", "output", "reasoning")
PARTS = (
    *("requests_failed", "requests_refused", "failed_nano_usd", "estimated_nano_usd", "settled_nano_usd"),
    "reserved_nano_usd",
)


@pytest.fixture(scope="module")
def events():
    lines = zstd.decompress((FOLDER / "events.jsonl.zst").read_bytes()).splitlines()
    return [Recorded(position=position, event=decode(line)) for position, line in enumerate(lines, 1)]


@pytest.fixture(scope="module")
def totals():
    return json.loads((FOLDER / "totals.json").read_bytes())


def assert_totals(queries, totals):
    runs = [
        {name: getattr(row, name) for name in RUN_FIELDS} | {"tokens": [getattr(row.usage, kind) for kind in KINDS]}
        for row in reversed(queries.runs(RunFilter(), limit=500).runs)
    ]
    assert json.loads(msgspec.json.encode(runs)) == totals["runs"]
    assert set(totals["costs"]) <= set(COST_DIMENSIONS)
    for by, rows in totals["costs"].items():
        report = queries.costs(by)
        found = {
            row.key: [
                row.requests,
                *(getattr(row.usage, kind) for kind in KINDS),
                row.cost_nano_usd,
                *(getattr(row, name) for name in PARTS),
            ]
            for row in (*report.rows, report.total)
        }
        assert found == rows, by
    assert [row.problem_id for row in queries.problems()] == totals["problems"]


def test_it_folds_live_to_the_same_totals(events, totals):
    projections = Projections(open_projections(Path(":memory:")))
    try:
        for start in range(0, len(events), 11):
            projections.apply(events[start : start + 11])
        assert projections.position == totals["events"]
        queries = Queries(projections.connection)
        assert_totals(queries, totals)
        costs = reported_costs(map(queries.costs, COST_DIMENSIONS))
        assert costs == independent_costs([recorded.event for recorded in events])
    finally:
        projections.close()


def test_it_rebuilds_to_the_same_totals(events, totals):
    with TemporaryDirectory() as folder:
        path = Path(folder, "tables")
        rebuild([list(map(raw_of, events))], path, total=len(events), report=lambda _: None)
        connection = open_projections(path)
        try:
            assert_totals(Queries(connection), totals)
        finally:
            connection.close()


def test_it_verifies_without_a_finding(events):
    result = verify([list(map(raw_of, events))], total=len(events), grace_s=60, blobs=None, report=lambda _: None)
    assert result.findings == ()


def test_the_recorded_totals_are_those_of_real_runs(totals):
    assert totals["costs"]["run"]["total"][5] == sum(run["cost_nano_usd"] for run in totals["runs"]) > 0
    assert {run["verdict"] for run in totals["runs"]} == {"resolved", "unresolved"}
