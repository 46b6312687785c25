"""Tables for people and documents for programs, on stdout."""

import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ridges.cli.progress import elapsed_s, phase, style
from ridges.cli.terminal_text import printable, safe
from ridges.cli.unanswered import Unanswered
from ridges.contracts.lifecycle import ENDED
from ridges.contracts.money import usd_text
from ridges.contracts.views import CostReport, ProblemRow, RunDetail, RunRow


def json_document(document: object) -> None:
    """Prints one JSON document, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def run_document(run: RunDetail, unanswered: Sequence[Unanswered]) -> dict[str, object]:
    """The JSON document of one run."""
    return {
        "run_id": run.run_id,
        "problem": run.problem,
        "agent": run.agent,
        "agent_name": run.agent_name,
        "model": run.model,
        "state": run.state,
        "verdict": run.verdict,
        "cause": run.cause,
        "fault": run.fault,
        "code": run.code,
        "detail": run.detail,
        "tests": [
            {"name": test.name, "category": test.category, "status": test.status, "duration_s": test.duration_s}
            for test in run.tests
        ],
        "patch": run.patch,
        "partial": run.partial,
        "usage": run.usage,
        "requests": run.requests,
        "requests_failed": run.requests_failed,
        "requests_refused": run.requests_refused,
        "unanswered": unanswered,
        "cost_usd": run.cost_usd,
        "cost_nano_usd": run.cost_nano_usd,
        "sandbox": run.sandbox,
        "attempt": run.attempt,
        "exit": run.exit,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }


def runs_table(runs: Sequence[RunRow], total: bool = False) -> None:
    """Prints runs, one a line."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "problem", "agent", "verdict"):
        table.add_column(name)
    for name in ("tests", "calls", "tokens", "cost USD", "time"):
        table.add_column(name, justify="right")
    for row in runs:
        table.add_row(
            row.run_id[:8],
            safe(row.problem),
            safe(row.agent_name),
            safe(phase(row), style(row)),
            f"{row.tests_passed}/{row.tests_total}" if row.tests_total else "-",
            str(row.requests),
            f"{row.usage.total:,}",
            row.cost_usd,
            f"{elapsed_s(row):.1f}s",
        )
    if total:
        table.add_section()
        resolved = sum(row.verdict == "resolved" for row in runs)
        void = sum(row.state in ENDED and row.verdict is None for row in runs)
        table.add_row(
            "total",
            "",
            "",
            f"{resolved} of {len(runs)} resolved" + (f", {void} void" if void else ""),
            f"{sum(r.tests_passed for r in runs)}/{sum(r.tests_total for r in runs)}",
            str(sum(row.requests for row in runs)),
            f"{sum(row.usage.total for row in runs):,}",
            usd_text(sum(row.cost_nano_usd for row in runs)),
            "",
        )
    _console().print(table)


def run_page(run: RunDetail, unanswered: Sequence[Unanswered]) -> None:
    """Prints everything about one run."""
    console = _console()
    usage = run.usage
    tokens = (
        f"{usage.total:,} (input {usage.input:,}, cached {usage.cached_input:,}, "
        f"output {usage.output:,}, reasoning {usage.reasoning:,})"
    )
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    for name, value in (
        ("run", run.run_id),
        ("problem", run.problem),
        ("agent", f"{run.agent_name} ({run.agent[:19]}…)"),
        ("state", f"{run.state} · attempt {run.attempt} · {run.sandbox or 'not started'}"),
        *((("earlier", f"ridges show|logs {run.run_id[:8]} --attempt N"),) if run.attempt > 1 else ()),
        ("verdict", run.verdict or "-"),
        ("cause", f"{run.cause} ({run.fault}'s fault)" if run.cause else "-"),
        ("detail", run.detail or "-"),
        ("tests", f"{run.tests_passed} of {run.tests_total} passed"),
        ("model calls", f"{run.requests} answered, {run.requests_failed} failed, {run.requests_refused} refused"),
        *((f"  {each.outcome}", f"{each.calls} because {each.words}: {each.detail}") for each in unanswered),
        ("tokens", tokens),
        ("cost", f"{run.cost_usd} USD of {usd_text(run.limits.model.max_cost_nano_usd)}"),
        ("time", f"{elapsed_s(run):.1f} s"),
    ):
        facts.add_row(name, safe(value))
    console.print(facts)
    for test in run.tests:
        colour = {"pass": "green", "fail": "red", "skip": "yellow"}[test.status]
        console.print(Text(f"  {test.status:<5}", style=colour) + safe(f" {test.category:<13} {test.name}"))
    if run.patch:
        console.print(Text(f"\npatch{' (partial)' if run.partial else ''}:", style="dim"))
        console.print(safe(run.patch), soft_wrap=True)


def strangers_text(text: str) -> None:
    """Prints what a stranger or its program wrote: unchanged into a file or pipe, harmless on a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def costs_table(report: CostReport) -> None:
    """Prints costs by one dimension, and their total. Columns of zeros are left out, but for the usual ones."""
    table = Table(box=None, pad_edge=False)
    table.add_column(report.by.replace("_", " "))
    for name in ("calls", "input", "cached", "output", "reasoning", "cost USD"):
        table.add_column(name, justify="right")
    rare = [
        (name, field)
        for name, field in (
            ("failed calls", "requests_failed"),
            ("refused", "requests_refused"),
            ("of it failed", "failed_nano_usd"),
            ("of it estimated", "estimated_nano_usd"),
            ("of it settled", "settled_nano_usd"),
            ("reserved", "reserved_nano_usd"),
        )
        if any(getattr(row, field) for row in report.rows)
    ]
    for name, _ in rare:
        table.add_column(name, justify="right")
    for row in (*report.rows, report.total):
        if row is report.total:
            table.add_section()
        usage = row.usage
        table.add_row(
            safe(row.key),
            f"{row.requests:,}",
            f"{usage.input:,}",
            f"{usage.cached_input:,}",
            f"{usage.output:,}",
            f"{usage.reasoning:,}",
            row.cost_usd,
            *(_amount(field, getattr(row, field)) for _, field in rare),
        )
    _console().print(table)


def _amount(field: str, value: int) -> str:
    return usd_text(value) if field.endswith("_nano_usd") else f"{value:,}"


def problems_table(problems: Sequence[ProblemRow]) -> None:
    """Prints the published problems."""
    table = Table(box=None, pad_edge=False)
    for name in ("problem", "kind", "title"):
        table.add_column(name)
    for row in problems:
        table.add_row(safe(row.problem_id), row.kind, safe(row.title))
    _console().print(table)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
