"""`ridges ledger migrate`: the ledger's pass as a child of this command, for services may end while the log moves."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from ridges.chassis.jetstream.permissions import ADMIN
from ridges.cli.config import project_root
from ridges.cli.embedded.log_server import log_server
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError, Exit, UsageError
from ridges.cli.system import LEDGER_VARIABLE, nothing_was_run
from ridges.contracts.views import MigrationResult, PassProgress

NATS_VARIABLE, TO_VARIABLE, SOURCE_VARIABLE = "RIDGES_NATS_URL", "RIDGES_MIGRATE_TO", "RIDGES_EVENT_STORE_URL"
USAGE = 2
"""What the pass ends with for settings that cannot be."""


class _Line(msgspec.Struct, frozen=True):
    progress: PassProgress | None = None
    migration: MigrationResult | None = None


def migration(to: str, *, abort: bool) -> Iterator[PassProgress | MigrationResult]:
    """How far the move is, then its result.

    Raises:
        UsageError: a URL or variable is missing or wrong.
        CliError: the process of the pass ended without a result.

    """
    with _environment() as environ:
        command = [sys.executable, "-m", "ridges.ledger.passes", "migrate", *(["--abort"] if abort else [])]
        process = subprocess.Popen(
            command, env=environ | {TO_VARIABLE: to}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            for text in process.stdout:
                line = msgspec.json.decode(text, type=_Line)
                if line.progress is not None:
                    yield line.progress
                if line.migration is not None:
                    if process.wait() == USAGE:
                        raise UsageError(line.migration.summary)
                    yield line.migration
                    return
            raise CliError(
                f"the move ended with {process.wait()} and without a result; run the same command: it goes on",
                Exit.OUR_FAULT,
            )
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


@contextlib.contextmanager
def _environment() -> Iterator[dict[str, str]]:
    """Where the log is: as the variables say, else in this folder."""
    if NATS_VARIABLE in os.environ:
        yield dict(os.environ)
        return
    if LEDGER_VARIABLE in os.environ:
        raise UsageError(
            f"{NATS_VARIABLE} is not set: the log is moved beside its server. Set it, RIDGES_NATS_ADMIN_USER and "
            f"RIDGES_NATS_ADMIN_PASSWORD (and {SOURCE_VARIABLE}, where it is set) as for the ledger"
        )
    if nothing_was_run():
        raise CliError(f"nothing was run in {project_root()} yet: there is no log to move")
    state = StateDir(project_root())
    environ = {name: value for name, value in os.environ.items() if name != SOURCE_VARIABLE}
    with log_server(state) as nats_url:
        yield environ | {
            NATS_VARIABLE: nats_url,
            "RIDGES_NATS_ADMIN_USER": ADMIN,
            "RIDGES_NATS_ADMIN_PASSWORD": state.secret(f"nats_password_{ADMIN}"),
        }
