"""`ridges demo`: what a newcomer sees first."""

import json

import pytest
from e2e.project import Project

ENDS = {
    "fix-room-clock-change": "resolved",
    "fix-formula-signs": "resolved",
    "create-energy-bill": "resolved",
    "create-undo-tree": "resolved",
    "fix-cache-half-fixed": "unresolved",
}


@pytest.mark.timeout(240)
def test_the_demo_ends_as_it_promises_and_stops_what_it_started(project: Project) -> None:
    ended = project.ridges("demo", "--sandbox", "bubblewrap", "--json", timeout_s=200)
    assert ended.code == 0, ended
    rows = json.loads(ended.stdout)
    assert {row["problem"]: row["verdict"] for row in rows} == ENDS
    assert all(row["tests_passed"] == row["tests_total"] > 0 for row in rows if row["verdict"] == "resolved")
    assert all(row["requests"] > 0 and row["cost_nano_usd"] > 0 for row in rows)
    assert {row["sandbox"] for row in rows} == {"bubblewrap"}
    assert "fix-cache-half-fixed ended unresolved on purpose: " in ended.stderr
    assert project.wait_for_nothing_left() == []

    shown = project.ridges("runs")
    assert shown.code == 0
    assert [problem for problem in ENDS if problem not in shown.stdout] == [], "what it did can be read later"


def test_the_demo_says_where_it_must_run(project: Project) -> None:
    (project.folder / "examples" / "demo.toml").unlink()
    ended = project.ridges("demo", "--json")
    assert (ended.code, ended.stdout) == (2, "")
    assert "demo.toml is missing" in ended.stderr
