"""Progress: a live table on a terminal, elsewhere a line for each phase, the first one included."""

import io
import re

import msgspec
from rich.console import Console
from unit.cli.samples import run_detail

from ridges.cli.progress import RunsProgress
from ridges.contracts.lifecycle import RunState
from ridges.contracts.usage import TokenUsage


def test_a_run_that_is_under_way_already_says_where_it_is(capsys):
    run = run_detail(state=RunState.RUNNING_AGENT)
    with RunsProgress([run]) as progress:
        progress.update(run)
        progress.update(msgspec.structs.replace(run, state=RunState.RUNNING_EVAL))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("fix-a-thing")[1].strip() for line in lines] == ["agent working", "hidden tests"]


def test_on_a_terminal_each_run_is_a_row_that_changes_in_place():
    """Phase, calls, tokens, cost and time, as they are now."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, height=20, color_system=None, _environ={})
    first = run_detail(state=RunState.PENDING, started_at=None, finished_at=None, requests=0, usage=TokenUsage())
    second = run_detail(run_id="1190a1b2-0000-4000-8000-000000000002", state=RunState.RUNNING_AGENT)
    with RunsProgress([first, second], console) as progress:
        shown = frame(progress, console, screen)
        assert [cells(line) for line in shown[:2]] == [
            ["run", "problem", "phase", "calls", "tokens", "cost USD", "time"],
            ["0190a1b2", "fix-a-thing", "waiting for a slot", "0", "0", "0.000275", "0.0s"],
        ]
        assert cells(shown[2])[:3] == ["1190a1b2", "fix-a-thing", "agent working"]
        progress.update(
            msgspec.structs.replace(
                second,
                state=RunState.FINISHED,
                verdict="resolved",
                requests=7,
                usage=TokenUsage(input=12_000, output=345),
                cost_usd="0.0125",
            )
        )
        assert cells(frame(progress, console, screen)[2]) == [
            "1190a1b2", "fix-a-thing", "resolved", "7", "12,345", "0.0125", "12.5s",
        ]  # fmt: skip
    assert "\x1b[2K" in screen.getvalue(), "rows are drawn over, not added"


def frame(progress, console, screen):
    """The lines of the table that is on the screen after a refresh."""
    start = screen.tell()
    progress._live.refresh()
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.getvalue()[start:])
    return [line for line in drawn.splitlines() if line.strip()]


def cells(line):
    return re.split(r"\s{2,}", line.strip())
