"""``ridges run``: one agent on one problem, followed to its end."""

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ridges.cli import render
from ridges.cli.client import LedgerClient
from ridges.cli.config import project_root, read_config
from ridges.cli.errors import CliError, Exit, UsageError
from ridges.cli.evaluator_client import Broken, ProblemFolders, problem_folders
from ridges.cli.progress import RunsProgress
from ridges.cli.sandbox_choice import tell_sandbox
from ridges.cli.system import any_system, evaluator_url, say
from ridges.cli.terminal_text import printable
from ridges.cli.unanswered import unanswered_calls
from ridges.contracts.faults import Cause, Fault
from ridges.contracts.lifecycle import RunState
from ridges.contracts.requests import AGENT_MAX_BYTES, RequestedLimits, RequestedSandbox, RequestRun
from ridges.contracts.views import RunDetail

OUR_FAULTS = frozenset({Fault.PLATFORM, Fault.EVALUATOR, Fault.PROVIDER})
_SIZE = re.compile(r"(\d{1,15})(?:([kmgtKMGT])(?:i?[bB])?)?")
CANCEL_PATIENCE_S = 15.0
ARRIVES_WITHIN_S = 2.0
"""After which a request whose answer was not awaited has arrived or never will."""


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
        tell_sandbox(request.sandbox)
        ended = _run_to_its_end(client, request)
        unanswered = unanswered_calls(client, ended)
    if as_json:
        render.json_document(render.run_document(ended, unanswered))
    else:
        render.run_page(ended, unanswered)
    return exit_code(ended, out_of_budget=any(each.reason == "cost" for each in unanswered))


def _run_to_its_end(client: LedgerClient, request: RequestRun) -> RunDetail:
    """The ended run. Its id is ours: it can be cancelled even when Ctrl-C comes before the ledger answers."""
    assert request.run_id is not None
    try:
        run = ask_for_run(client, request)
        say(f"run {run.run_id}")
        with RunsProgress([run]) as progress:
            for row in client.follow(run.run_id):
                progress.update(row)
    except KeyboardInterrupt:
        say("interrupted: cancelling the run (Ctrl-C again to leave at once) …")
        (fate,) = cancel_runs(client, [request.run_id], "interrupted by the user")
        raise CliError(fate, Exit.INTERRUPTED) from None
    return client.run(run.run_id)


def ask_for_run(client: LedgerClient, request: RequestRun) -> RunDetail:
    """The requested run.

    Raises:
        UsageError: refused; where the problem's folder is broken, with the reasons.

    """
    try:
        return client.request_run(request)
    except UsageError as error:
        folders = _folders_here()
        for broken in folders.broken:
            if broken.problem_id == request.problem:
                raise UsageError(_broken_words(broken)) from error
        if any(row.problem_id == request.problem for row in folders.problems) and "is published" in str(error):
            return client.request_run(request)  # the folder is new: looking at it has published it
        raise


def _folders_here() -> ProblemFolders:
    url = evaluator_url()
    with contextlib.suppress(CliError):
        if url:
            return problem_folders(url)
    return ProblemFolders(problems=(), broken=())


def _broken_words(broken: Broken) -> str:
    reasons = "; ".join(broken.reasons)
    return printable(
        f"the problem {broken.problem_id} cannot be used: {reasons}; mend {broken.folder}, "
        f"then see `ridges problem check {broken.problem_id}`"
    )


def cancel_runs(client: LedgerClient, run_ids: Sequence[str], reason: str) -> list[str]:
    """What became of each run. Raises nothing: a second Ctrl-C, too, only ends the trying."""
    hurried = client.hurried(CANCEL_PATIENCE_S)
    fates: list[str] = []
    left_at_once = False
    for run_id in run_ids:
        try:
            fates.append(f"run {run_id} may go on" if left_at_once else _cancel(hurried, run_id, reason))
        except CliError as error:
            fates.append(f"run {run_id} may go on: {error}")
        except KeyboardInterrupt:
            left_at_once = True
            fates.append(f"run {run_id} may go on; `ridges cancel {run_id}` ends it")
    return fates


def _cancel(client: LedgerClient, run_id: str, reason: str) -> str:
    """A request that was sent but not answered may still arrive: an unknown run is asked for again for a moment."""
    give_up = time.monotonic() + ARRIVES_WITHIN_S
    while True:
        try:
            client.cancel(run_id, reason)
        except UsageError:
            if time.monotonic() > give_up:
                return f"run {run_id} did not begin"
            time.sleep(0.1)
        else:
            return f"run {run_id} was cancelled; `ridges show {run_id[:13]}` shows what it did"


def configured_model() -> str | None:
    """``[run] model`` of this folder's configuration."""
    return read_config(project_root()).run.model


def limits(
    max_cost_usd: str | None,
    agent_timeout: int | None,
    test_timeout: int | None,
    max_requests: int | None,
    end_when_spent: bool,
    sandbox: RequestedSandbox,
) -> RequestedLimits:
    """Limits as the command line gives them."""
    return RequestedLimits(
        max_cost_usd=max_cost_usd,
        agent_timeout_s=agent_timeout,
        evaluation_timeout_s=test_timeout,
        max_requests=max_requests,
        end_when_spent=end_when_spent or None,
        sandbox=sandbox,
    )


def sandbox_limits(
    cpus: float | None,
    memory: str | None,
    pids: int | None,
    disk: str | None,
    runtime: str | None,
    network: str | None,
) -> RequestedSandbox:
    """Limits of the run's sandboxes as the command line gives them.

    Raises:
        UsageError: none of them can be meant.

    """
    given = {
        "cpus": cpus,
        "memory_bytes": None if memory is None else byte_count("--memory", memory),
        "pids": pids,
        "disk_bytes": None if disk is None else byte_count("--disk", disk),
        "runtime": runtime,
        "network": network,
    }
    try:
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, RequestedSandbox)
    except msgspec.ValidationError as error:
        raise UsageError(f"the sandbox cannot be like that: {error}") from error


def byte_count(option: str, text: str) -> int:
    """``2GiB``, ``2g``, ``512M`` or plain bytes; all units are binary.

    Raises:
        UsageError: it is none of these.

    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} {text!r} is no amount of bytes; write it like 512M, 2GiB or 1073741824")
    power = "_kmgt".index((found[2] or "_").lower())
    return int(found[1]) << 10 * power


def exit_code(run: RunDetail, *, out_of_budget: bool) -> Exit:
    """The exit code that tells how the run ended."""
    if run.verdict == "resolved":
        return Exit.RESOLVED
    if run.state is RunState.ERROR and run.fault in OUR_FAULTS:
        return Exit.OUR_FAULT
    if out_of_budget or run.cause is Cause.BUDGET_SPENT:
        return Exit.BUDGET_SPENT
    return Exit.NOT_RESOLVED
