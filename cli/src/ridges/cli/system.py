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
from ridges.cli.terminal_text import printable

LEDGER_VARIABLE = "RIDGES_LEDGER_URL"
EVALUATOR_VARIABLE = "RIDGES_EVALUATOR_URL"
MANAGERS_VARIABLE = "RIDGES_SANDBOX_MANAGER_URL"


def say(text: str) -> None:
    """Talk goes to stderr; stdout is for data. What it repeats of strangers does nothing to a terminal."""
    print(printable(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def any_system(sandbox: str | None = None) -> Iterator[LedgerClient]:
    """A system that can run agents: the configured one, else the embedded one, started for as long as needed."""
    if url := os.environ.get(LEDGER_VARIABLE):
        yield LedgerClient(url)
        return
    state = StateDir(project_root())
    with control.running(state, sandbox, lambda text: say(f"starting {text} …")) as system:
        yield LedgerClient(system.ledger_url)


@contextlib.contextmanager
def any_evaluator() -> Iterator[str]:
    """The address of the configured evaluator, else of the embedded one, started for as long as needed."""
    if url := os.environ.get(EVALUATOR_VARIABLE):
        yield url.rstrip("/")
        return
    with control.running(StateDir(project_root()), None, lambda text: say(f"starting {text} …")) as system:
        yield system.evaluator_url


def nothing_was_run() -> bool:
    """Whether this folder has no system that runs and none that ever ran."""
    state = StateDir(project_root())
    return LEDGER_VARIABLE not in os.environ and state.read() is None and not any(state.nats.glob("*"))


@contextlib.contextmanager
def system_for_reading() -> Iterator[LedgerClient]:
    """A system whose past can be read. The embedded one is started only if it has a past."""
    if nothing_was_run():
        raise CliError(f"nothing was run in {project_root()} yet; try `ridges run` or `ridges up`")
    with any_system() as client:
        yield client


def evaluator_url() -> str | None:
    """The address of the evaluator that reads the problem folders; null when none is known."""
    if url := os.environ.get(EVALUATOR_VARIABLE):
        return url.rstrip("/")
    system = None if LEDGER_VARIABLE in os.environ else StateDir(project_root()).read()
    return system.evaluator_url if system else None


def manager_urls() -> list[str]:
    """Addresses of the sandbox-managers that are known."""
    if given := os.environ.get(MANAGERS_VARIABLE):
        return [url.strip().rstrip("/") for url in given.split(",") if url.strip()]
    system = None if LEDGER_VARIABLE in os.environ else StateDir(project_root()).read()
    return [system.sandbox_manager_url.rstrip("/")] if system else []
