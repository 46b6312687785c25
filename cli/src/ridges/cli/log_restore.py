"""`ridges ledger restore --into-new`: a damaged log of the embedded system becomes whole in a new stream."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import nats

from ridges.chassis.jetstream import permissions
from ridges.chassis.migrate import declare_streams
from ridges.cli.config import project_root
from ridges.cli.embedded.die_with_parent import die_with_parent
from ridges.cli.embedded.log_files import RESTORE, LogFiles
from ridges.cli.embedded.log_server import own_log_server
from ridges.cli.embedded.plan import SystemPlan
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError, Exit, UsageError
from ridges.cli.system import LEDGER_VARIABLE, nothing_was_run, say
from ridges.contracts.views import PassProgress, PassResult

LOST = "lost"
"""Kind of finding of a restore that has reached its end."""


class _Line(msgspec.Struct, frozen=True):
    progress: PassProgress | None = None
    result: PassResult | None = None


def restored_into_new() -> Iterator[PassProgress | PassResult]:
    """How far the restore is, then its result.

    Raises:
        UsageError: the log is not the embedded system's.
        CliError: the system runs, the log has moved away, or the process of the pass ended without a result.

    """
    if LEDGER_VARIABLE in os.environ:
        raise UsageError(
            f"{LEDGER_VARIABLE} is set: --into-new is for the system of this folder; how a server's log becomes whole "
            "again stands in services/ledger/docs/log.md (Damage)"
        )
    if nothing_was_run():
        raise CliError(f"nothing was run in {project_root()} yet: there is no log to restore")
    state = StateDir(project_root())
    with state.hold() as lock:
        files = LogFiles(state)
        folders = files.move_away()
        with own_log_server(state, lock) as plan:
            asyncio.run(_declare(plan))
            salvage = [word for folder in folders for word in ("--salvage", str(folder))]
            for message in _pass(plan, salvage):
                if isinstance(message, PassResult) and (message.ok or any(f.kind == LOST for f in message.findings)):
                    files.restored()
                    if folders:
                        say(f"what there was of the log is kept in {folders[-1].parent}; delete it when all is well")
                yield message


async def _declare(plan: SystemPlan) -> None:
    connection = await nats.connect(
        plan.nats_url, name="ridges-restore", user=permissions.ADMIN, password=plan.nats_admin_password
    )
    try:
        await declare_streams(connection)
    finally:
        await connection.close()


def _pass(plan: SystemPlan, salvage: list[str]) -> Iterator[PassProgress | PassResult]:
    [ledger] = [service for service in plan.services if service.name == "ledger"]
    command = [sys.executable, "-m", "ridges.ledger.passes", "restore", *salvage]
    process = subprocess.Popen(
        command,
        env=ledger.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - there is one thread
    )
    assert process.stdout is not None
    try:
        for text in process.stdout:
            line = msgspec.json.decode(text, type=_Line)
            if line.progress is not None:
                yield line.progress
            if line.result is not None:
                process.wait()
                yield line.result
                return
        raise CliError(
            f"the restore ended with {process.wait()} and without a result; run {RESTORE} again: it goes on",
            Exit.OUR_FAULT,
        )
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            process.wait()
