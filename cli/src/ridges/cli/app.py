"""The commands. Thin: each imports what it needs when it runs, so that ``ridges --help`` is quick."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from ridges.cli.ledger_commands import ledger_app

app = typer.Typer(
    name="ridges",
    help="Run untrusted software-engineering agents on problems: sandboxed, metered, judged by hidden tests.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
problem_app = typer.Typer(help="List and check problems.", no_args_is_help=True)
app.add_typer(problem_app, name="problem")
app.add_typer(ledger_app, name="ledger")
image_app = typer.Typer(help="Build images of sandboxes, and see what is in them.", no_args_is_help=True)
app.add_typer(image_app, name="image")


class SandboxName(StrEnum):
    AUTO = "auto"
    DOCKER = "docker"
    BUBBLEWRAP = "bubblewrap"
    PROCESS = "process"


class NetworkName(StrEnum):
    SOCKET = "socket"
    INTERNAL = "internal"


class CostDimension(StrEnum):
    RUN = "run"
    ATTEMPT = "attempt"
    AGENT = "agent"
    PROBLEM = "problem"
    BATCH = "batch"
    MODEL = "model"
    PROVIDER = "provider"
    DAY = "day"
    TOKEN_KIND = "token_kind"  # noqa: S105 - no secret


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or a unique start of it.")]


@app.command()
def run(
    agent: Annotated[Path, typer.Option("--agent", "-a", help="The agent's Python file.")],
    problem: Annotated[str, typer.Option("--problem", "-p", help="Problem id; see `ridges problem list`.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Handed to the agent as RIDGES_MODEL.")] = None,
    max_cost_usd: Annotated[
        str | None, typer.Option(help="Hard limit of the run's model costs (default: 1.00).")
    ] = None,
    max_requests: Annotated[int | None, typer.Option(help="Hard limit of model calls.")] = None,
    end_when_spent: Annotated[
        bool, typer.Option("--end-when-spent", help="End the agent when its budget is spent, and judge what it has.")
    ] = False,
    agent_timeout: Annotated[int | None, typer.Option(help="Seconds (default: the problem's, else 2400).")] = None,
    test_timeout: Annotated[int | None, typer.Option(help="Seconds (default: the problem's, else 600).")] = None,
    sandbox: Annotated[SandboxName, typer.Option(help="Where agent and tests run.")] = SandboxName.AUTO,
    cpus: Annotated[
        float | None, typer.Option(help="Processors of a sandbox (default: the problem's, else 1).")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Its memory, e.g. 512M (default: the problem's, else 2G).")] = None,
    pids: Annotated[int | None, typer.Option(help="Its processes (default: the problem's, else 256).")] = None,
    disk: Annotated[str | None, typer.Option(help="Its disk, e.g. 2GiB (default: the problem's, else 1G).")] = None,
    image: Annotated[str | None, typer.Option(help="Its image, with --sandbox docker.")] = None,
    runtime: Annotated[str | None, typer.Option(help="Its OCI runtime: runc, runsc, kata.")] = None,
    network: Annotated[
        NetworkName | None, typer.Option(help="Its way to the models: a socket in it, or (docker) a relay beside it.")
    ] = None,
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="Of the runs that wait, those with a higher one start first.")
    ] = 0,
    batch: Annotated[
        str | None, typer.Option(help="Name of the batch it belongs to: batches take turns, costs are summed by it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one agent on one problem and judge its patch.

    Exit code: 0 resolved, 1 not resolved, 2 usage, 3 our fault, 4 budget spent, 130 interrupted.
    """
    from ridges.cli import run_command
    from ridges.contracts.requests import RequestRun

    wanted = run_command.sandbox_limits(cpus, memory, pids, disk, runtime, network and network.value)
    request = RequestRun(
        run_id=str(uuid4()),
        problem=problem,
        agent_source=run_command.read_agent(agent),
        agent_name=agent.name,
        model=model or run_command.configured_model(),
        limits=run_command.limits(max_cost_usd, agent_timeout, test_timeout, max_requests, end_when_spent, wanted),
        image=image,
        sandbox=sandbox.value,
        batch_id=batch,
        priority=priority,
    )
    raise typer.Exit(run_command.run_and_show(request, as_json))


@app.command()
def runs(
    state: Annotated[str | None, typer.Option(help="Only runs in this state.")] = None,
    problem: Annotated[str | None, typer.Option(help="Only runs on this problem.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only runs of this batch.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="The next_cursor of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from ridges.cli import render
    from ridges.cli.system import nothing_was_run, say, system_for_reading
    from ridges.contracts.views import RunList

    if nothing_was_run():
        say("nothing was run here yet; try `ridges run` or `ridges demo`")
        page = RunList(runs=(), next_cursor=None)
    else:
        with system_for_reading() as client:
            page = client.runs(state=state, problem=problem, batch=batch, limit=limit, cursor=cursor)
    if as_json:
        render.json_document(page)
    else:
        render.runs_table(page.runs)


@app.command()
def show(
    run_id: RunId,
    as_json: AsJson = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only its patch; of a lost one the last state.")] = None,
) -> None:
    """Show one run: verdict, tests, patch, usage, cost."""
    from ridges.cli import render
    from ridges.cli.system import system_for_reading
    from ridges.cli.unanswered import unanswered_calls

    with system_for_reading() as client:
        if attempt is not None:
            render.strangers_text(client.patch(run_id, attempt))
            return
        detail = client.run(run_id)
        unanswered = unanswered_calls(client, detail)
    if as_json:
        render.json_document(render.run_document(detail, unanswered))
    else:
        render.run_page(detail, unanswered)


@app.command()
def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the agent ended.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="One that is over; of a lost one the end.")] = None,
) -> None:
    """Print an agent's log, also while the agent runs."""
    from ridges.cli import logs_command

    logs_command.show_log(run_id, follow, attempt)


@app.command()
def watch(run_id: RunId, as_json: AsJson = False) -> None:
    """Follow one run to its end."""
    from ridges.cli import render
    from ridges.cli.progress import RunsProgress
    from ridges.cli.system import system_for_reading
    from ridges.cli.unanswered import unanswered_calls

    with system_for_reading() as client:
        detail = client.run(run_id)
        with RunsProgress([detail]) as progress:
            for row in client.follow(detail.run_id):
                progress.update(row)
        detail = client.run(detail.run_id)
        unanswered = unanswered_calls(client, detail)
    if as_json:
        render.json_document(render.run_document(detail, unanswered))
    else:
        render.run_page(detail, unanswered)


@app.command()
def cancel(run_id: RunId, as_json: AsJson = False) -> None:
    """End a run now. What it did so far stays in the log."""
    from ridges.cli import render
    from ridges.cli.progress import phase
    from ridges.cli.system import say, system_for_reading
    from ridges.cli.unanswered import unanswered_calls
    from ridges.contracts.faults import Cause

    with system_for_reading() as client:
        detail = client.cancel(run_id, "cancelled by `ridges cancel`")
        unanswered = unanswered_calls(client, detail)
    if as_json:
        render.json_document(render.run_document(detail, unanswered))
    elif detail.cause is Cause.CANCELLED:
        say(f"run {detail.run_id} is cancelled")
    else:
        say(f"run {detail.run_id} had ended before: {phase(detail)}")


@app.command()
def costs(
    by: Annotated[CostDimension, typer.Option(help="What the rows are.")] = CostDimension.RUN, as_json: AsJson = False
) -> None:
    """Token usage and costs, computed from the log."""
    from ridges.cli import render
    from ridges.cli.system import system_for_reading

    with system_for_reading() as client:
        report = client.costs(by.value)
    if as_json:
        render.json_document(report)
    else:
        render.costs_table(report)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Its ending says how: .jsonl, .csv, .parquet, .html, .xml (JUnit).")],
    by: Annotated[CostDimension | None, typer.Option(help="Costs by this; default: runs.")] = None,
) -> None:
    """Write all runs, or costs, to a file."""
    from ridges.cli.export import export as write
    from ridges.cli.system import say, system_for_reading

    with system_for_reading() as client:
        count = write(client, file, None if by is None else by.value)
    say(f"{count} {'runs' if by is None else 'rows'} written to {file}")


@app.command()
def up(
    sandbox: Annotated[SandboxName | None, typer.Option(help="Overrides [sandbox] default of ridges.toml.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start the embedded system of this folder and leave it running."""
    from ridges.cli import render
    from ridges.cli.config import project_root
    from ridges.cli.embedded import control
    from ridges.cli.embedded.state import StateDir
    from ridges.cli.sandbox_choice import tell_sandbox
    from ridges.cli.system import say

    state = StateDir(project_root())
    before = state.read()
    state.create()
    with state.staying_up():
        system = control.start(state, sandbox.value if sandbox else None, lambda text: say(f"starting {text} …"))
    if before and before.phase == "ready":
        say(f"already running since {before.started_at:%Y-%m-%d %H:%M} UTC (pid {before.supervisor_pid})")
    if as_json:
        render.json_document(system)
    else:
        say(
            f"ledger   {system.ledger_url}   (web page and HTTP API)\n"
            f"gateway  {system.gateway_url}\n"
            f"nats     {system.nats_url}"
        )
    tell_sandbox()


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop the embedded system of this folder. Runs in progress go on at the next start."""
    from ridges.cli import render
    from ridges.cli.config import project_root
    from ridges.cli.embedded import control
    from ridges.cli.embedded.state import StateDir
    from ridges.cli.system import say

    state = StateDir(project_root())
    state.set_stays_up(False)
    stopped = control.stop(state)
    if as_json:
        render.json_document({"stopped": stopped})
    else:
        say("stopped" if stopped else "nothing was running")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Name what is missing or set wrong, with the command that mends it."""
    from ridges.cli import doctor as checkup

    raise typer.Exit(checkup.report(as_json))


@app.command()
def demo(
    sandbox: Annotated[SandboxName, typer.Option(help="Where agent and tests run.")] = SandboxName.AUTO,
    as_json: AsJson = False,
) -> None:
    """Run the example agent on the example problems, several at once."""
    from ridges.cli import demo as demonstration

    raise typer.Exit(demonstration.run_demo(sandbox.value, as_json))


@problem_app.command("list")
def problem_list(as_json: AsJson = False) -> None:
    """List the published problems, and the folders that cannot be used, with the reasons."""
    from ridges.cli import problem_list as listing

    listing.list_problems(as_json)


@problem_app.command("check")
def problem_check(
    problem: Annotated[str | None, typer.Argument(metavar="PROBLEM", help="Problem id; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that problems are sound: the reference patch passes, the empty one fails, repeats agree."""
    from ridges.cli import problem_check as check

    raise typer.Exit(check.check_problems(problem, as_json))


@image_app.command("build")
def image_build(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Your own Dockerfile (default: the agent image).")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", "-t", help="Name of your own image.")] = None,
    base: Annotated[str | None, typer.Option(help="Image to build on (build argument BASE_IMAGE).")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the agent image, or one of your own, and see that sandboxes can use it."""
    from ridges.cli import image_build as building
    from ridges.cli import render
    from ridges.cli.system import say

    image = building.build_image(file, tag, base)
    if as_json:
        render.json_document({"image": image})
    else:
        say(f'{image} is ready; runs use it with `image = "{image}"` below [sandbox] in ridges.toml')


@image_app.command("packages")
def image_packages(
    image: Annotated[str | None, typer.Argument(metavar="IMAGE", help="Default: the agent image.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what an image was built from: its base and every package with its version."""
    from ridges.cli import render
    from ridges.cli.image_packages import contents_of

    contents = contents_of(image)
    if as_json:
        render.json_document(contents)
    else:
        render.strangers_text("\n".join(contents.lines()) + "\n")
