"""``ridges demo``: the example agent on the example problems, several at once."""

import tomllib
from pathlib import Path
from typing import Literal
from uuid import uuid4

import msgspec

from ridges.chassis.clock import SystemClock
from ridges.cli import progress, render
from ridges.cli.client import LedgerClient
from ridges.cli.config import project_root
from ridges.cli.errors import CliError, Exit, UsageError
from ridges.cli.run_command import read_agent
from ridges.cli.system import any_system, say
from ridges.contracts.lifecycle import ENDED
from ridges.contracts.requests import RequestedLimits, RequestRun
from ridges.contracts.views import RunRow


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One problem of the demo and how it ends with the recorded model."""

    problem: str
    ends: Literal["resolved", "unresolved"]
    why: str = ""


class Demo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contents of ``examples/demo.toml``."""

    agent: str
    example: list[Example]
    max_cost_usd: str = "1.00"
    agent_timeout_s: int = 600


def run_demo(sandbox: str, as_json: bool) -> Exit:
    """Exit code 0 when every example ended as ``examples/demo.toml`` says."""
    root = project_root()
    demo = _read(root / "examples" / "demo.toml")
    source = read_agent(root / demo.agent)
    with any_system(sandbox) as client:
        rows = _follow_all(client, [_request(demo, example, source, sandbox) for example in demo.example])
    if as_json:
        render.json_document(rows)
    else:
        render.runs_table(rows, total=True)
    return _compare(demo, rows)


def _read(path: Path) -> Demo:
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Demo)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run the demo in the folder of the project") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}") from error


def _request(demo: Demo, example: Example, source: str, sandbox: str) -> RequestRun:
    return RequestRun(
        run_id=str(uuid4()),
        problem=example.problem,
        agent_source=source,
        agent_name=Path(demo.agent).name,
        limits=RequestedLimits(max_cost_usd=demo.max_cost_usd, agent_timeout_s=demo.agent_timeout_s),
        sandbox=sandbox,  # type: ignore[arg-type]
        requested_by="demo",
    )


def _follow_all(client: LedgerClient, requests: list[RequestRun]) -> list[RunRow]:
    batch = SystemClock().new_id()
    rows: dict[str, RunRow] = {}
    try:
        for request in requests:
            asked = client.request_run(msgspec.structs.replace(request, batch_id=batch))
            rows[asked.run_id] = asked
        with progress.RunsProgress(list(rows.values())) as table:
            while any(row.state not in ENDED for row in rows.values()):
                progress.pause()
                for row in client.runs(batch=batch, limit=len(rows)).runs:
                    rows[row.run_id] = row
                    table.update(row)
    except KeyboardInterrupt:
        say("interrupted: cancelling the runs …")
        for run_id in rows:
            client.cancel(run_id, "the demo was interrupted")
        raise CliError("the demo was interrupted", Exit.INTERRUPTED) from None
    return list(rows.values())


def _compare(demo: Demo, rows: list[RunRow]) -> Exit:
    surprises = 0
    for example, row in zip(demo.example, rows, strict=True):
        ended = row.verdict or str(row.cause)
        if ended != example.ends:
            surprises += 1
            say(
                f"{example.problem}: {ended}, but the recorded model gives {example.ends}; "
                f"`ridges show {row.run_id[:8]}` tells more"
            )
        elif example.ends == "unresolved":
            say(f"{example.problem} ended unresolved on purpose: {example.why}")
    return Exit.NOT_RESOLVED if surprises else Exit.RESOLVED
