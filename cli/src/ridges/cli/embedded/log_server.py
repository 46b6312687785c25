"""The embedded system's log alone: its NATS server, also while the system is down or cannot start."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from ridges.cli.config import read_config
from ridges.cli.embedded.die_with_parent import die_with_parent
from ridges.cli.embedded.log_files import LogFiles
from ridges.cli.embedded.plan import SystemPlan, plan_system
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError

START_PATIENCE_S = 30.0
STOP_PATIENCE_S = 30.0


@contextlib.contextmanager
def log_server(state: StateDir) -> Iterator[str]:
    """The address of the log's server: of the running system, else started for as long as needed.

    Raises:
        CliError: it does not start, or the system is just starting or stopping.

    """
    if (running := state.read()) and running.phase == "ready":
        yield running.nats_url
        return
    with state.hold() as lock:
        files = LogFiles(state)
        files.refuse_damaged()
        files.drop_copy()
        files.copy()
        with own_log_server(state, lock) as plan:
            files.refuse_cut()
            yield plan.nats_url
        files.drop_copy()


@contextlib.contextmanager
def own_log_server(state: StateDir, lock: int) -> Iterator[SystemPlan]:
    """The log's server alone, for who holds the folder. It holds it, too: killed -9, nobody starts a second one early.

    Raises:
        CliError: it does not start.

    """
    plan = plan_system(read_config(state.root), state)
    log = state.logs / "nats.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            plan.nats.command,
            env=plan.nats.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
            preexec_fn=die_with_parent,  # noqa: PLW1509 - there is one thread
        )
    try:
        _wait_ready(server, plan.nats_url, f"see {log}")
        yield plan
    finally:
        server.terminate()
        server.wait(STOP_PATIENCE_S)


def _wait_ready(server: "subprocess.Popen[bytes]", url: str, where: str) -> None:
    place = urlsplit(url)
    give_up = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < give_up and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((place.hostname, place.port), timeout=2):
            return
        time.sleep(0.05)
    raise CliError(f"nats-server does not start; {where}")
