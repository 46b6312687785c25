"""Exported files hold every run and every amount, in each form."""

import csv
import io
import json
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import msgspec
import pyarrow.parquet as pq
import pytest

from ridges.cli import export
from ridges.cli.errors import CliError, UsageError
from ridges.contracts.events import TestResult
from ridges.contracts.faults import Cause
from ridges.contracts.lifecycle import RunState
from ridges.contracts.limits import RunLimits
from ridges.contracts.usage import TokenUsage
from ridges.contracts.views import CostReport, CostRow, RunDetail, RunList

AT = datetime(2026, 1, 31, 23, 0, tzinfo=UTC)
HOSTILE = '=1+1<script>"\x00'


def a_run(number, tests=(), **fields):
    absent = (
        *("batch_id", "verdict", "cause", "fault", "code", "sandbox", "started_at", "finished_at", "detail", "model"),
        *("patch", "patch_digest", "log_digest", "evaluation_log_digest", "exit"),
    )
    given = dict.fromkeys(absent) | {
        "run_id": f"{number:08d}-0000-4000-8000-000000000000",
        "problem": "fix-a",
        "agent": "sha256:x",
        "agent_name": "agent.py",
        "state": RunState.FINISHED,
        "attempt": 1,
        "partial": False,
        "requests": 2,
        "usage": TokenUsage(input=10, output=3),
        "cost_nano_usd": 123,
        "cost_usd": "0.000000123",
        "reserved_nano_usd": 0,
        "tests_passed": 0,
        "tests_total": 0,
        "requested_at": AT,
        "position": number,
        "limits": RunLimits(),
        "requests_failed": 0,
        "requests_refused": 0,
        "tests": tuple(tests),
        "flagged": (),
        "mended": (),
    }
    return RunDetail(**(given | fields))


TESTS = (
    TestResult(name="test_a.py::test_one", category="default", status="pass", duration_s=0.5),
    TestResult(name="test_a.py::test_two", category="default", status="fail", message="no\x00pe <&>"),
    TestResult(name="test_a.py::test_three", category="default", status="skip"),
)


class Ledger:
    """Answers as the HTTP client does, three runs on two pages."""

    def __init__(self):
        self.details = [
            a_run(1, TESTS),
            a_run(2, agent_name=HOSTILE),
            a_run(3, state=RunState.ERROR, cause=Cause.AGENT_RAISED, detail="boom"),
        ]

    def runs(self, limit, cursor):
        start = int(cursor or 0)
        return RunList(runs=tuple(self.details[start : start + 2]), next_cursor="2" if start == 0 else None)

    def run(self, run_id):
        return next(each for each in self.details if each.run_id == run_id)

    def costs(self, by):
        usage = TokenUsage(input=1)
        rows = tuple(
            CostRow(key=key, requests=1, usage=usage, cost_nano_usd=5, cost_usd="0.000000005") for key in ("a", "b")
        )
        return CostReport(by=by, rows=rows, total=msgspec.structs.replace(rows[0], key="total"), position=9)


def written(tmp_path, name, by=None):
    count = export.export(Ledger(), tmp_path / name, by)
    return count, (tmp_path / name).read_bytes()


def test_json_lines_hold_every_run_and_exact_money(tmp_path):
    count, content = written(tmp_path, "runs.jsonl")
    records = [json.loads(line) for line in content.splitlines()]
    assert (count, len(records)) == (3, 3)
    assert (records[0]["cost_nano_usd"], records[0]["cost_usd"], records[0]["input_tokens"]) == (123, "0.000000123", 10)
    assert records[1]["agent_name"] == HOSTILE


def test_csv_is_read_back_and_starts_no_formula(tmp_path):
    _, content = written(tmp_path, "runs.csv")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert [row["cost_nano_usd"] for row in rows] == ["123"] * 3
    assert rows[1]["agent_name"].startswith("'=")


def test_costs_are_exported_by_a_dimension(tmp_path):
    count, content = written(tmp_path, "costs.jsonl", "day")
    assert count == 2
    assert [(row["by"], row["key"], row["cost_nano_usd"]) for row in map(json.loads, content.splitlines())] == [
        ("day", "a", 5),
        ("day", "b", 5),
    ]


def test_html_shows_hostile_text_as_text(tmp_path):
    _, content = written(tmp_path, "runs.html")
    assert b"<script" not in content
    assert b"&lt;script&gt;" in content


def test_junit_has_a_case_for_each_test_and_an_error_for_a_run_without_verdict(tmp_path):
    _, content = written(tmp_path, "runs.xml")
    first, _, last = ET.fromstring(content)
    assert [(case.get("name").rpartition("_")[2], [part.tag for part in case]) for case in first] == [
        ("one", []),
        ("two", ["failure"]),
        ("three", ["skipped"]),
    ]
    assert (first.get("tests"), first.get("failures"), first.get("skipped")) == ("3", "1", "1")
    assert last[0][0].get("message") == "agent_raised: boom"


def test_parquet_needs_its_package_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CliError, match=r"ridges-cli\[parquet\]"):
        written(tmp_path, "runs.parquet")
    assert not (tmp_path / "runs.parquet").exists()


def test_parquet_is_read_back_where_its_package_is(tmp_path):
    written(tmp_path, "runs.parquet")
    assert pq.read_table(tmp_path / "runs.parquet").column("cost_nano_usd").to_pylist() == [123] * 3


@pytest.mark.parametrize(("name", "by", "told"), [("runs.xls", None, "unknown ending"), ("a.xml", "day", "leave --by")])
def test_what_cannot_be_written_is_said(tmp_path, name, by, told):
    with pytest.raises(UsageError, match=told):
        written(tmp_path, name, by)
    with pytest.raises(CliError, match="cannot write"):
        export.export(Ledger(), tmp_path / "none" / "x.csv", None)
