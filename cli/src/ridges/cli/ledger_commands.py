"""``ridges ledger …``: prove, rebuild, archive and re-price what the log says. Thin over the ledger's HTTP API."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never, TypeVar

import typer

if TYPE_CHECKING:
    from ridges.contracts.views import MigrationResult, PassProgress, PassResult, RepriceReport

    Ending = TypeVar("Ending", PassResult, MigrationResult)

ledger_app = typer.Typer(help="Prove, rebuild, archive and re-price the log.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
FromArchive = Annotated[bool, typer.Option("--from-archive", help="Read the archive and what came after it.")]


@ledger_app.command()
def rebuild(
    verify: Annotated[bool, typer.Option("--verify", help="Prove that live and rebuilt tables are the same.")] = False,
    from_archive: FromArchive = False,
    as_json: AsJson = False,
) -> None:
    """Build runs and costs again from the first event, then swap. Reads and runs go on meanwhile."""
    source = "archive" if from_archive else "log"
    _run_pass(f"/v1/admin/rebuild?verify={str(verify).lower()}&source={source}", as_json)


@ledger_app.command("verify")
def verify_log(
    blobs: Annotated[bool, typer.Option(help="Read every blob and the archive, too.")] = True, as_json: AsJson = False
) -> None:
    """Check the log: gaps, order, unknown types, amounts, blobs, archive, open reservations."""
    _run_pass(f"/v1/admin/verify?blobs={str(blobs).lower()}", as_json)


@ledger_app.command()
def archive(as_json: AsJson = False) -> None:
    """Prove what is sealed, mend it from the log, seal the rest: a second copy, and the fast source of a rebuild."""
    _run_pass("/v1/admin/archive", as_json)


@ledger_app.command()
def restore(
    into_new: Annotated[
        bool,
        typer.Option(
            "--into-new",
            help="Make a damaged log of this folder whole: its files are moved away, a new one gets the archive and "
            "what is still readable in them. `ridges down` first.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a lost log back from the archive: same events, same positions."""
    if not into_new:
        _run_pass("/v1/admin/restore", as_json)
    from ridges.cli.log_restore import restored_into_new

    _end_pass(_followed(restored_into_new()), as_json)


@ledger_app.command()
def migrate(
    to: Annotated[
        str,
        typer.Option(envvar="RIDGES_MIGRATE_TO", metavar="URL", help="nats://host:4222 or kurrentdb://host:2113."),
    ],
    abort: Annotated[bool, typer.Option("--abort", help="Stay with the old log, as long as that is possible.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move the log to another store, proved, ids and order kept. Interrupted, it goes on where it stopped."""
    from ridges.cli import render
    from ridges.cli.log_migration import migration
    from ridges.cli.system import say

    result = _followed(migration(to, abort=abort))
    if as_json:
        render.json_document(result)
    else:
        say(f"migrate: {result.summary} ({result.seconds:.1f} s)")
        for number, step in enumerate(result.next_steps, 1):
            say(f"{number}. {step}")
    raise typer.Exit(0 if result.ok else 1)


@ledger_app.command()
def prices(
    publish: Annotated[
        Path | None, typer.Option(help="A TOML file with prices (or a ridges.toml); `vendored`: the built-in table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the published price lists, or publish one."""
    from ridges.cli import render
    from ridges.cli.system import say, system_for_reading

    with system_for_reading() as client:
        if publish is not None:
            made = client.publish_price_list("" if str(publish) == "vendored" else _text(publish))
            say(f"published {made.price_list}: {made.models} models, from {made.source}")
        lists = client.price_lists()
    if as_json:
        render.json_document(lists)
    else:
        for row in lists:
            typer.echo(f"{row.price_list}  {row.effective_at:%Y-%m-%d}  {row.models} models  {row.source}")


@ledger_app.command()
def reprice(
    price_list: Annotated[
        str, typer.Option("--prices", help="A TOML file, the id of a published list, or `vendored`.")
    ],
    since: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="First day (UTC); default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the past would have cost with other prices. The record stays as it is."""
    from ridges.cli import render
    from ridges.cli.system import system_for_reading

    text = _text(Path(price_list)) if Path(price_list).is_file() else None
    with system_for_reading() as client:
        report = client.reprice(price_list, text, since)
    if as_json:
        render.json_document(report)
    else:
        _show_report(report)


@ledger_app.command()
def settle(
    run: Annotated[str, typer.Argument(help="The run's id, whole.")],
    call: Annotated[str, typer.Argument(help="The call's id, as `ridges ledger verify` or the run's events name it.")],
    cost_usd: Annotated[str, typer.Option(metavar="USD", help="What the provider charged, decimal.")],
    input_tokens: Annotated[int, typer.Option("--input", min=0, help="Input tokens that were not cached.")] = 0,
    cached_input: Annotated[int, typer.Option(min=0, help="Cached input tokens.")] = 0,
    output: Annotated[int, typer.Option(min=0, help="Output tokens without reasoning.")] = 0,
    reasoning: Annotated[int, typer.Option(min=0, help="Reasoning tokens.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Charge a call that a crash cut off with what its provider says, in place of the maximum or the estimate."""
    from ridges.cli import render
    from ridges.cli.system import system_for_reading

    record: dict[str, object] = {
        "run_id": run,
        "call_id": call,
        "cost_usd": cost_usd,
        "input": input_tokens,
        "cached_input": cached_input,
        "output": output,
        "reasoning": reasoning,
    }
    with system_for_reading() as client:
        position = client.settle(record)
    if as_json:
        render.json_document({"position": position})
    else:
        typer.echo(f"settled; the record stands at position {position}")


def _run_pass(path: str, as_json: bool) -> Never:
    from ridges.cli.system import system_for_reading

    with system_for_reading() as client:
        result = _followed(client.run_pass(path))
    _end_pass(result, as_json)


def _end_pass(result: "PassResult", as_json: bool) -> Never:
    from ridges.cli import render

    if as_json:
        render.json_document(result)
    else:
        _show_result(result)
    raise typer.Exit(0 if result.ok else 1)


def _followed(messages: "Iterator[PassProgress | Ending]") -> "Ending":
    """Shows the progress on stderr, without a terminal each phase; the result."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from ridges.cli.system import say
    from ridges.contracts.views import PassProgress

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    console, phase = Console(stderr=True), ""
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("starting", total=None, told="")
        for message in messages:
            if not isinstance(message, PassProgress):
                return message
            if message.phase != phase and not console.is_terminal:
                say(f"{message.what}: {message.phase} …")
            phase = message.phase
            eta = "" if message.eta_s is None else f", {message.eta_s:.0f} s left"
            told = f"{message.done:,} of {message.total:,} ({message.rate_per_s:,.0f}/s{eta})"
            bar.update(shown, description=message.phase, completed=message.done, total=message.total, told=told)
    raise AssertionError("the client ends with a result")


def _show_result(result: "PassResult") -> None:
    from ridges.cli.terminal_text import printable

    typer.echo(printable(f"{result.what}: {result.summary} ({result.seconds:.1f} s)"))
    for finding in result.findings:
        where = "" if finding.position is None else f" at position {finding.position}"
        which = "" if finding.event_id is None else f" (event {finding.event_id})"
        typer.echo(printable(f"{finding.severity}: {finding.kind}{where}{which}: {finding.detail}"))


def _show_report(report: "RepriceReport") -> None:
    from rich.console import Console
    from rich.table import Table

    from ridges.cli.terminal_text import safe
    from ridges.contracts.money import usd_text

    table = Table(box=None, pad_edge=False)
    for name in ("day", "agent", "model"):
        table.add_column(name)
    for name in ("calls", "tokens", "recorded USD", "repriced USD", "difference"):
        table.add_column(name, justify="right")
    for row in report.rows:
        table.add_row(
            row.day,
            safe(row.agent),
            safe(row.model),
            f"{row.requests:,}",
            f"{row.usage.total:,}",
            usd_text(row.recorded_nano_usd),
            usd_text(row.repriced_nano_usd),
            usd_text(row.repriced_nano_usd - row.recorded_nano_usd),
        )
    table.add_section()
    total = (report.recorded_nano_usd, report.repriced_nano_usd, report.repriced_nano_usd - report.recorded_nano_usd)
    table.add_row("total", "", "", "", "", *map(usd_text, total))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=160)).print(table)
    if report.kept_nano_usd:
        typer.echo(f"{usd_text(report.kept_nano_usd)} USD kept as recorded: no tokens, or no price in the list")
    for name in report.unpriced:
        typer.echo(safe(f"no price for {name}").plain)


def _text(path: Path) -> str:
    from ridges.cli.errors import UsageError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
