"""The embedded system's log alone: its NATS server, also while the system is down or cannot start."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from ridges.cli.config import read_config
from ridges.cli.embedded.plan import plan_system
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
    with state.hold():
        plan = plan_system(read_config(state.root), state)
        log = state.logs / "nats.log"
        with log.open("ab") as output:
            server = subprocess.Popen(
                plan.nats.command, env=plan.nats.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            _wait_ready(server, plan.nats_url, f"see {log}")
            yield plan.nats_url
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
