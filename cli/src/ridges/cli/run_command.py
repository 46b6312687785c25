"""``ridges run``: one agent on one problem, followed to its end."""

from pathlib import Path

from ridges.cli import render
from ridges.cli.client import LedgerClient
from ridges.cli.config import project_root, read_config
from ridges.cli.errors import CliError, Exit, UsageError
from ridges.cli.progress import RunsProgress
from ridges.cli.system import any_system, say
from ridges.contracts.events import InferenceRefused
from ridges.contracts.faults import Cause, Fault
from ridges.contracts.lifecycle import RunState
from ridges.contracts.requests import AGENT_MAX_BYTES, RequestedLimits, RequestRun
from ridges.contracts.views import RunDetail

OUR_FAULTS = frozenset({Fault.PLATFORM, Fault.EVALUATOR, Fault.PROVIDER})
CANCEL_PATIENCE_S = 15.0


def read_agent(path: Path) -> str:
    """The agent file's text.

    Raises:
        UsageError: missing, too large, not UTF-8.

    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UsageError(f"{path} is not a file; give the agent's Python file with -a")
        if size > AGENT_MAX_BYTES:
            raise UsageError(f"{path} has {size:,} bytes; an agent file has at most {AGENT_MAX_BYTES:,} (2 MiB)")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the agent file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def run_and_show(request: RequestRun, as_json: bool) -> Exit:
    """Runs the agent, prints the ended run, and says with which exit code to end. Ctrl-C cancels the run."""
    with any_system(request.sandbox) as client:
        run = client.request_run(request)
        say(f"run {run.run_id}")
        try:
            with RunsProgress([run]) as progress:
                for row in client.follow(run.run_id):
                    progress.update(row)
        except KeyboardInterrupt:
            raise _cancelled(client, run.run_id) from None
        ended = client.run(run.run_id)
        code = exit_code(ended, out_of_budget=spent_its_budget(client, ended))
    if as_json:
        render.json_document(render.run_document(ended))
    else:
        render.run_page(ended)
    return code


def configured_model() -> str | None:
    """``[run] model`` of this folder's configuration."""
    return read_config(project_root()).run.model


def limits(
    max_cost_usd: str | None, agent_timeout: int | None, test_timeout: int | None, max_requests: int | None
) -> RequestedLimits:
    """Limits as the command line gives them."""
    return RequestedLimits(
        max_cost_usd=max_cost_usd,
        agent_timeout_s=agent_timeout,
        evaluation_timeout_s=test_timeout,
        max_requests=max_requests,
    )


def exit_code(run: RunDetail, *, out_of_budget: bool) -> Exit:
    """The exit code that tells how the run ended."""
    if run.verdict == "resolved":
        return Exit.RESOLVED
    if run.state is RunState.ERROR and run.fault in OUR_FAULTS:
        return Exit.OUR_FAULT
    if out_of_budget or run.cause is Cause.BUDGET_SPENT:
        return Exit.BUDGET_SPENT
    return Exit.NOT_RESOLVED


def spent_its_budget(client: LedgerClient, run: RunDetail) -> bool:
    """Whether a model call of the run was refused because of its cost limit."""
    if run.requests_refused == 0:
        return False
    rows = client.events(run.run_id)
    return any(isinstance(row.event, InferenceRefused) and row.event.reason == "cost" for row in rows)


def _cancelled(client: LedgerClient, run_id: str) -> CliError:
    say("interrupted: cancelling the run (Ctrl-C again to leave at once) …")
    try:
        client.cancel(run_id, "interrupted by the user")
    except (CliError, KeyboardInterrupt) as error:
        return CliError(f"run {run_id} may go on: {error}", Exit.INTERRUPTED)
    return CliError(f"run {run_id} was cancelled; `ridges show {run_id[:8]}` shows what it did", Exit.INTERRUPTED)
