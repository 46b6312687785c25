"""The two C programs of the benchmark, compiled when it runs: a mock provider and a load generator."""

import http.client
import json
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
from nats_process import free_port

SOURCES = Path(__file__).parent
PLACE_OF_NUMBER = "##########"
START_TIMEOUT_S = 5.0


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds; -1 = nothing was measured."""

    p50: float = -1.0
    p90: float = -1.0
    p99: float = -1.0
    max: float = -1.0


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the load generator counted."""

    elapsed_s: float
    latency_ms: Times
    first_event_ms: Times
    ok: int
    errors: int
    bad: int
    unfinished: int
    events: int
    statuses: dict[str, int]

    @property
    def per_second(self) -> float:
        return self.ok / self.elapsed_s


def compile_native(folder: Path) -> dict[str, Path]:
    """Name -> program. Ends the benchmark with a clear line when there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        sys.exit("no C compiler (cc, gcc or clang) on PATH; the benchmark's load generator and mock provider are in C")
    programs = {}
    for source in sorted(SOURCES.glob("*.c")):
        program = programs[source.stem] = folder / source.stem
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return programs


class MockProvider:
    """The provider that every contender proxies to."""

    def __init__(self, program: Path) -> None:
        self.port = free_port()
        self._process = subprocess.Popen([str(program), str(self.port)])
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.stats()
            except OSError:
                assert time.monotonic() < deadline, "the mock provider did not start"
                time.sleep(0.02)
            else:
                return

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stats(self) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/stats")
            stats: dict[str, int] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return stats

    def wait_until_idle(self, timeout_s: float = 30.0) -> None:
        """Until every abandoned call has reached us."""
        deadline = time.monotonic() + timeout_s
        while self.stats()["open"] and time.monotonic() < deadline:
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(5)


class LoadGenerator:
    """Runs the load program against one port."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder

    def run(self, port: int, path: str, body: bytes, identities: list[str], **options: Any) -> LoadResult:
        """``identities``: header lines by caller. ``options``: callers, calls, seconds, stream, leave, expect."""
        body_file, identities_file = self._folder / "body.json", self._folder / "identities.txt"
        body_file.write_bytes(body)
        identities_file.write_text("".join(f"{headers}\0" for headers in identities))
        command = [str(self._program), "--port", str(port), "--path", path, "--body", str(body_file)]
        if identities:
            command += ["--identities", str(identities_file)]
        for name, value in options.items():
            if value is True:
                command.append(f"--{name}")
            elif value is not None:
                command += [f"--{name}", str(value)]
        ran = subprocess.run(command, check=True, capture_output=True, timeout=options["seconds"] + 60)
        return msgspec.json.decode(ran.stdout, type=LoadResult)


def chat_body(size: int, *, markers: str = "", stream: bool = False) -> bytes:
    """A chat call of about ``size`` bytes. No two calls are equal: a fresh id here, a number that the load puts in."""
    start = f"{markers} {uuid.uuid4()} {PLACE_OF_NUMBER} "
    body: dict[str, object] = {
        "model": "mock",
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": "You are a careful software engineer."},
            {"role": "user", "content": start},
        ],
    }
    if stream:
        body["stream"] = True
    missing = max(0, size - len(json.dumps(body)))
    filler = "Fix the bug in the parser, then run the tests. "
    body["messages"][1]["content"] += (filler * (missing // len(filler) + 1))[:missing]  # type: ignore[index]
    return json.dumps(body).encode()
