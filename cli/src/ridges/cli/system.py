"""Which system a command talks to: a configured one, or the embedded one of this folder."""

import contextlib
import os
import sys
from collections.abc import Iterator

from ridges.cli.client import LedgerClient
from ridges.cli.config import project_root
from ridges.cli.embedded import control
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError


def say(text: str) -> None:
    """Talk goes to stderr; stdout is for data."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def any_system(sandbox: str | None = None) -> Iterator[LedgerClient]:
    """A system that can run agents: the configured one, else the embedded one, started for as long as needed."""
    if url := os.environ.get("RIDGES_LEDGER_URL"):
        yield LedgerClient(url)
        return
    state = StateDir(project_root())
    with control.running(state, sandbox, lambda text: say(f"starting {text} …")) as system:
        yield LedgerClient(system.ledger_url)


@contextlib.contextmanager
def system_for_reading() -> Iterator[LedgerClient]:
    """A system whose past can be read. The embedded one is started only if it has a past."""
    state = StateDir(project_root())
    if "RIDGES_LEDGER_URL" not in os.environ and state.read() is None and not any(state.nats.glob("*")):
        raise CliError(f"nothing was run in {state.root} yet; try `ridges run` or `ridges up`")
    with any_system() as client:
        yield client
