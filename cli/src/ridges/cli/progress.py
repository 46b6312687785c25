"""Live progress on stderr: one row per run."""

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ridges.cli.terminal_text import safe
from ridges.contracts.lifecycle import ENDED, RunState
from ridges.contracts.views import RunRow

PHASES = {
    RunState.PENDING: "waiting for a slot",
    RunState.INITIALIZING_AGENT: "starting sandbox",
    RunState.RUNNING_AGENT: "agent working",
    RunState.INITIALIZING_EVAL: "patch received",
    RunState.RUNNING_EVAL: "hidden tests",
    RunState.FINISHED: "finished",
    RunState.ERROR: "error",
}
REFRESH_S = 0.2


class RunsProgress:
    """A live table on a terminal; one line per change of phase elsewhere."""

    def __init__(self, runs: Sequence[RunRow], console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._rows: dict[str, RunRow] = {run.run_id: run for run in runs}
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=5, transient=True)
        self._interactive = self._console.is_terminal

    def __enter__(self) -> Self:
        if self._interactive:
            self._live.start()
        else:
            for row in self._rows.values():
                _say(row)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._interactive:
            self._live.stop()

    def update(self, row: RunRow) -> None:
        before = self._rows.get(row.run_id)
        self._rows[row.run_id] = row
        if not self._interactive and (before is None or before.state != row.state):
            _say(row)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("run", "problem", "phase"):
            table.add_column(name)
        for name in ("calls", "tokens", "cost USD", "time"):
            table.add_column(name, justify="right")
        for row in self._rows.values():
            table.add_row(
                row.run_id[:8],
                safe(row.problem),
                safe(phase(row), style(row)),
                str(row.requests),
                f"{row.usage.total:,}",
                row.cost_usd,
                f"{elapsed_s(row):.1f}s",
            )
        return table


def _say(row: RunRow) -> None:
    print(f"{row.run_id[:8]}  {row.problem:<24} {phase(row)}", file=sys.stderr, flush=True)


def phase(row: RunRow) -> str:
    """The run's phase in words."""
    if row.state is RunState.FINISHED:
        return row.verdict or "finished"
    if row.state is RunState.ERROR:
        return str(row.cause or "error")
    words = PHASES[row.state]
    return words if row.attempt < 2 else f"{words} (attempt {row.attempt})"


def style(row: RunRow) -> str:
    """The colour of the run's phase."""
    if row.verdict == "resolved":
        return "green"
    if row.state in ENDED:
        return "red" if row.state is RunState.ERROR else "yellow"
    return "cyan" if row.state is not RunState.PENDING else "dim"


def elapsed_s(row: RunRow) -> float:
    """Seconds from the first attempt's start to the end (or to now)."""
    if row.started_at is None:
        return 0.0
    end = row.finished_at or datetime.now(UTC)
    return max(0.0, (end - row.started_at).total_seconds())


def pause() -> None:
    """Between two looks at several runs."""
    time.sleep(REFRESH_S)
