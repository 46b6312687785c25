"""``ridges demo``: the example agent on the example problems, several at once."""

import os
import tomllib
from pathlib import Path
from typing import Literal
from uuid import uuid4

import msgspec

from ridges.chassis.clock import SystemClock
from ridges.cli import progress, render
from ridges.cli.client import LedgerClient
from ridges.cli.config import Config, live_model, project_root, read_config, sandbox_environment
from ridges.cli.errors import CliError, Exit, UsageError
from ridges.cli.image_build import AGENT_IMAGE, try_agent_image
from ridges.cli.run_command import OUR_FAULTS, ask_for_run, cancel_runs, read_agent
from ridges.cli.sandbox_choice import tell_sandbox
from ridges.cli.system import LEDGER_VARIABLE, any_system, say
from ridges.contracts.lifecycle import ENDED
from ridges.contracts.requests import RequestedLimits, RequestRun
from ridges.contracts.views import RunRow

IMAGE_LIMIT_S = 600.0
"""For a base image that has to be pulled first."""


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
    config = read_config(root)
    model = live_model(config)
    say(f"model: {model or 'recorded replies (no key needed); other providers: see ridges.toml'}")
    if _wants_agent_image(config, sandbox):
        try_agent_image(IMAGE_LIMIT_S)
    with any_system(sandbox) as client:
        tell_sandbox(sandbox)
        rows = _follow_all(client, [_request(demo, example, source, sandbox, model) for example in demo.example])
    if as_json:
        render.json_document(rows)
    else:
        render.runs_table(rows, total=True)
    return _compare(demo, rows) if model is None else _judge(rows)


def _wants_agent_image(config: Config, sandbox: str) -> bool:
    """Whether the demo's runs are to start from the project's own image, on the engine of this machine."""
    wanted = config.sandbox.default if sandbox == "auto" else sandbox
    own = sandbox_environment(config, project_root()).get("RIDGES_AGENT_IMAGE", AGENT_IMAGE)
    return wanted in ("auto", "docker") and own == AGENT_IMAGE and LEDGER_VARIABLE not in os.environ


def _read(path: Path) -> Demo:
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Demo)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run the demo in the folder of the project") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}") from error


def _request(demo: Demo, example: Example, source: str, sandbox: str, model: str | None) -> RequestRun:
    return RequestRun(
        run_id=str(uuid4()),
        problem=example.problem,
        agent_source=source,
        agent_name=Path(demo.agent).name,
        model=model,
        limits=RequestedLimits(max_cost_usd=demo.max_cost_usd, agent_timeout_s=demo.agent_timeout_s),
        sandbox=sandbox,  # type: ignore[arg-type]
        requested_by="demo",
    )


def _follow_all(client: LedgerClient, requests: list[RequestRun]) -> list[RunRow]:
    """The ended runs. However it ends, no run goes on that nobody follows any more."""
    asked_for: list[str] = []
    try:
        return _followed(client, requests, asked_for)
    except KeyboardInterrupt:
        say("interrupted: cancelling the runs (Ctrl-C again to leave at once) …")
        _cancel_all(client, asked_for, "the demo was interrupted")
        raise CliError("the demo was interrupted", Exit.INTERRUPTED) from None
    except CliError:
        _cancel_all(client, asked_for, "the demo could not go on")
        raise


def _followed(client: LedgerClient, requests: list[RequestRun], asked_for: list[str]) -> list[RunRow]:
    batch = SystemClock().new_id()
    rows: dict[str, RunRow] = {}
    for request in requests:
        asked_for.append(str(request.run_id))  # before the ledger answers: it may have heard
        asked = ask_for_run(client, msgspec.structs.replace(request, batch_id=batch))
        rows[asked.run_id] = asked
    with progress.RunsProgress(list(rows.values())) as table:
        while any(row.state not in ENDED for row in rows.values()):
            progress.pause()
            for row in client.runs(batch=batch, limit=len(rows)).runs:
                rows[row.run_id] = row
                table.update(row)
    return list(rows.values())


def _cancel_all(client: LedgerClient, run_ids: list[str], reason: str) -> None:
    for fate in cancel_runs(client, run_ids, reason):
        say(fate)


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


def _judge(rows: list[RunRow]) -> Exit:
    """With a live model every verdict is a result; only runs that end by our fault are a failure of the demo."""
    broken = [row for row in rows if row.fault in OUR_FAULTS]
    for row in broken:
        say(f"{row.problem}: {row.cause}; `ridges show {row.run_id[:8]}` tells more")
    return Exit.OUR_FAULT if broken else Exit.RESOLVED
