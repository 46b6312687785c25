"""Start and stop the embedded system from the command line."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ridges.cli.config import Config, provider_key_variables, read_config
from ridges.cli.embedded.state import StateDir, SystemState
from ridges.cli.errors import CliError, Exit, UsageError

START_PATIENCE_S = 75.0
STOP_PATIENCE_S = 90.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start(state: StateDir, sandbox: str | None = None, say: Callable[[str], None] = lambda _: None) -> SystemState:
    """The addresses of the running system, started if need be. Safe to call twice at once: one of both starts it.

    Raises:
        UsageError: ridges.toml or a variable is wrong; the message holds file, line and what to write.
        CliError: it does not start; the message holds the reason.

    """
    if (running := state.read()) and running.phase == "ready":
        return running
    config = read_config(state.root)
    state.create()
    log = state.logs / "supervisor.log"
    with log.open("ab") as output:
        offset = output.tell()
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "ridges.cli.embedded.supervisor", *([sandbox] if sandbox else [])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "RIDGES_ROOT": str(state.root), "PYTHONUNBUFFERED": "1"},
        )
    try:
        return _wait_ready(state, supervisor, log, offset, say)
    except UsageError as error:
        raise UsageError(f"{error}{_export_words(config, str(error))}") from error
    except BaseException:
        supervisor.terminate()
        supervisor.wait()
        raise


def _wait_ready(
    state: StateDir, supervisor: subprocess.Popen[bytes], log: Path, offset: int, say: Callable[[str], None]
) -> SystemState:
    said, give_up = "", time.monotonic() + START_PATIENCE_S
    while time.monotonic() < give_up:
        current = state.read()
        if current and current.phase == "ready":
            return current
        if current and current.phase == "starting" and current.detail != said:
            said = current.detail
            say(said)
        if supervisor.poll() is not None and not state.locked():
            text = log.read_bytes()[offset:].decode("utf-8", "replace").strip()
            last = text.splitlines()[-1].removeprefix("error: ") if text else f"no reason given; see {log}"
            if supervisor.returncode == Exit.USAGE:
                raise UsageError(last)
            raise CliError(f"the system did not start: {last}")
        time.sleep(0.03)
    raise CliError(f"the system is not ready after {START_PATIENCE_S:.0f} s; see the logs in {state.logs}")


def _export_words(config: Config, message: str) -> str:
    unset = [name for name in provider_key_variables(config) if name in message and not os.environ.get(name)]
    return "".join(f"; set it: export {name}=…" for name in unset)


def stop(state: StateDir) -> bool:
    """Stops the running system and waits for its end. False when none ran.

    Raises:
        CliError: it does not end in time.

    """
    give_up = time.monotonic() + STOP_PATIENCE_S
    signalled: int | None = None
    while state.locked():
        current = state.read()
        if current and current.supervisor_pid != signalled:
            signalled = current.supervisor_pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(signalled, signal.SIGTERM)
        if time.monotonic() > give_up:
            raise CliError(f"the system (pid {signalled}) did not stop in {STOP_PATIENCE_S:.0f} s; see {state.logs}")
        time.sleep(0.05)
    return signalled is not None


@contextlib.contextmanager
def running(state: StateDir, sandbox: str | None, say: Callable[[str], None]) -> Iterator[SystemState]:
    """The running system, started if need be. The last user stops it, unless `ridges up` asked it to stay."""
    state.create()
    with state.users.open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield start(state, sandbox, say)
        finally:
            with _interrupts_ignored():
                _stop_if_last(state, users)


def _stop_if_last(state: StateDir, users: IO[bytes]) -> None:
    for _ in range(2):  # the supervisor, too, holds the lock for a moment when it looks whether it has users
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        if not state.stays_up:
            stop(state)
        return


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
