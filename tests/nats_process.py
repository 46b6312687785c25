"""A real nats-server of our own, on free ports, with its store in a given folder."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

from nats.aio.client import Client

from ridges.chassis.migrate import declare_streams

START_TIMEOUT_S = 15.0
_OUTSIDE_OF_THE_EPHEMERAL = range(10_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """Outside of the range from which the kernel takes ports for connections: nobody has it when the server comes.

    Another one each time: two servers that are told their ports before the first one starts must not share one.
    """
    for port in random.SystemRandom().sample(_OUTSIDE_OF_THE_EPHEMERAL, 50):
        with socket.socket() as probing, contextlib.suppress(OSError):
            probing.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise AssertionError("no port below 32768 is free")


def nats_server_binary() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "nats-server is not installed; run ./just sync"
    return found


class NatsServer:
    """Starts, stops, kills and restarts one server; ports and store stay the same over restarts."""

    def __init__(
        self, folder: Path, *, sync: str | None = "always", extra: str = "", claims: str | None = None
    ) -> None:
        """``claims``: what the server believes it may store (``16GB``), whatever its disk holds."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port, self.monitor_port = free_port(), free_port()
        self.log = folder / "nats.log"
        self._config = folder / "nats.conf"
        self._sync, self._extra, self._claims = sync, extra, claims
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> "NatsServer":
        assert not self.running, "the server runs already"
        self._config.write_text(self.configuration())
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [nats_server_binary(), "-c", str(self._config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment(),
            )
        self._wait_until_up()
        return self

    def configuration(self) -> str:
        settings = [f'store_dir: "{self.folder}/store"']
        settings += [f"sync_interval: {self._sync}"] if self._sync else []
        settings += [f"max_file_store: {self._claims}"] if self._claims else []
        return (
            f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self.monitor_port}"\nmax_payload: 1MB\n'
            f"jetstream {{ {', '.join(settings)} }}\n{self._extra}\n"
        )

    def environment(self) -> dict[str, str]:
        """What the configuration refers to."""
        return {}

    def stop(self) -> None:
        """SIGTERM, then wait."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill -9 and start again: same ports, same store."""
        self.kill9()
        self.start()

    def claim(self, claims: str) -> None:
        """From the next start on."""
        self._claims = claims

    def pause(self) -> None:
        """The server hangs (SIGSTOP) until ``resume``. Its threads stop some moments after the signal was sent."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(_is_stopped(thread) for thread in Path(f"/proc/{self.pid}/task").iterdir()):
            assert time.monotonic() < deadline, "the server does not stop"
            time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @asynccontextmanager
    async def client(self, **options):
        """A plain nats-py client."""
        nc = Client()
        await nc.connect(self.url, **options)
        try:
            yield nc
        finally:
            await nc.close()

    async def migrate(self, **options) -> None:
        """Declare the streams."""
        async with self.client(**options) as nc:
            await declare_streams(nc)

    def migrate_now(self, **options) -> None:
        """``migrate`` for code without a loop."""
        asyncio.run(self.migrate(**options))

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.running, f"nats-server ended: {self.log.read_text()[-2000:]}"
            try:
                for port in (self.port, self.monitor_port):
                    socket.create_connection(("127.0.0.1", port), 0.2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"nats-server did not start in time: {self.log.read_text()[-2000:]}")


def _is_stopped(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:  # it has ended
        return True
