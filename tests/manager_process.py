"""A real sandbox-manager process against a real log, real blobs and a gateway that answers the same to everything."""

import asyncio
import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec
import psutil
from aiohttp import web
from nats_process import free_port

from ridges.chassis.blob_store import open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.jetstream import open_event_store
from ridges.contracts import events as ev
from ridges.contracts.events import SandboxFile
from ridges.contracts.limits import RunLimits, SandboxLimits

KEY = "5a" * 32
END_S = 60
NO_LIMITS = RunLimits()
ENDS = (ev.PatchProduced, ev.AgentFailed, ev.RunCancelled)


class FakeGateway:
    """Answers each call and writes down who called."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[str, str]] = []
        """(path, Authorization)"""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.content.read()
        self.calls.append((request.path, request.headers.get("Authorization", "")))
        return web.json_response({"content": "hello", "tool_calls": []})

    @asynccontextmanager
    async def serving(self):
        server = web.ServerRunner(web.Server(self), shutdown_timeout=0.1)
        await server.setup()
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            await server.cleanup()


STARTED: list[subprocess.Popen[bytes]] = []


def end_managers() -> None:
    """Those that a failed test left at work."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.wait()


class ManagerProcess:
    """`python -m ridges.sandbox_manager`, started, killed and started again on the same state."""

    def __init__(self, folder: Path, *, nats, gateway_url: str, **settings: object) -> None:
        self.state_dir = folder / "manager state"
        self.port = free_port()
        self.log = folder / "manager.log"
        self.env = {
            "RIDGES_NATS_URL": nats.url,
            "RIDGES_NATS_MONITOR_URL": nats.monitor_url,
            "RIDGES_BLOBS_URL": f"file://{folder}/blobs",
            "RIDGES_GATEWAY_URL": gateway_url,
            "RIDGES_RUN_TOKEN_KEY": KEY,
            "RIDGES_STATE_DIR": str(self.state_dir),
            "RIDGES_HTTP_PORT": str(self.port),
            "RIDGES_ACK_WAIT_S": "2",
            "RIDGES_SWEEP_INTERVAL_S": "1",
            "RIDGES_DRAIN_TIMEOUT_S": "1",
        } | {f"RIDGES_{name.upper()}": str(value) for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, env: Mapping[str, str] = {}) -> None:
        self.launch(env)
        try:
            await self.until_ready()
        except BaseException:
            await self.end(signal.SIGKILL)
            raise

    def launch(self, env: Mapping[str, str] = {}) -> None:
        """Start, without waiting."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RIDGES_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ridges.sandbox_manager"],
                env=environ | self.env | dict(env),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        STARTED.append(self._process)

    async def failing(self, part: str, timeout_s: float = 60) -> str:
        """What /readyz says of this part, once it is the only one that it names."""
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://127.0.0.1:{self.port}/readyz") as reply:
                        failing = (await reply.json())["failing"] if reply.status == 503 else {}
                        if list(failing) == [part]:
                            return str(failing[part])
                await asyncio.sleep(0.1)

    async def until_ready(self) -> None:
        give_up_at, said = asyncio.get_running_loop().time() + 40, "nothing"
        async with aiohttp.ClientSession() as http:
            while asyncio.get_running_loop().time() < give_up_at:
                assert self._process is not None
                assert self._process.poll() is None, self.words()
                try:
                    async with http.get(f"http://127.0.0.1:{self.port}/readyz") as reply:
                        if reply.status == 200 and (self.state_dir / "installation-id").exists():
                            return  # without the file it was another process, on the same port
                        said = await reply.text()
                except aiohttp.ClientError as error:
                    said = str(error)
                await asyncio.sleep(0.05)
        raise AssertionError(f"not ready: {said}\n{self.words()}")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            return await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"it did not end within {END_S} s of {number.name}\n{self.words()}") from None

    def words(self) -> str:
        return self.log.read_text()[-8000:]


def the_runtime_dir(process: ManagerProcess) -> Path:
    owner = (process.state_dir / "installation-id").read_text().strip().replace("-", "")[-12:]
    places = [process.state_dir / "p", Path("/run") / f"ridges-{owner}", Path("/tmp") / f"ridges-{owner}"]
    return next((place for place in places if place.exists()), places[0])


def leftovers(process: ManagerProcess, runtime_dir: Path) -> list[str]:
    found = [str(path) for path in runtime_dir.iterdir() if path.is_dir()] if runtime_dir.exists() else []
    for other in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(other.info["cmdline"] or ())
        if str(runtime_dir) in line:
            found.append(line)
    if shutil.which("docker"):
        owner = (process.state_dir / "installation-id").read_text().strip()
        listed = subprocess.run(
            ["docker", "ps", "-aq", "--filter", f"label=ridges.owner={owner}"],
            capture_output=True,
            text=True,
            check=False,
        )
        found += listed.stdout.split()
    return found


class Requests:
    """Publishes requests as the ledger and the evaluator would, and waits for what becomes of them."""

    def __init__(self, store, blobs) -> None:
        self.store, self.blobs, self.clock = store, blobs, SystemClock()

    async def run(self, agent: str | bytes, *, limits: RunLimits = NO_LIMITS, repo=None, **fields) -> str:
        run_id = self.clock.new_id()
        source = agent if isinstance(agent, bytes) else agent.encode()
        put = self.blobs.put
        await self.store.append(
            run_id,
            [
                ev.RunRequested(
                    **self.envelope(run_id),
                    problem_id="p",
                    problem_digest="sha256:" + "0" * 64,
                    statement=await put("Make it two. \N{SNOWMAN}".encode(), "text/markdown"),
                    workspace=await put(tar_of(repo or {"a.txt": b"one\n"}), "application/x-tar"),
                    agent=await put(source, "text/x-python"),
                    agent_name="agent.py",
                    limits=limits,
                    **fields,
                )
            ],
        )
        return run_id

    def envelope(self, run_id: str) -> dict[str, object]:
        return {"id": self.clock.new_id(), "run_id": run_id, "time": datetime.now(UTC)}

    async def cancel(self, run_id: str) -> None:
        await self.store.append(run_id, [ev.RunCancelled(**self.envelope(run_id), reason="enough")])

    async def events(self, run_id: str, *types) -> list[ev.AnyEvent]:
        found = [recorded.event for recorded in await self.store.read_run(run_id)]
        return [event for event in found if not types or isinstance(event, types)]

    async def wait(self, run_id: str, *types, timeout_s: float = 60):
        """The first event of these types."""
        async with asyncio.timeout(timeout_s):
            while not (found := await self.events(run_id, *types)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return found[0]

    async def end_of(self, run_id: str, timeout_s: float = 60):
        return await self.wait(run_id, *ENDS, timeout_s=timeout_s)

    async def text(self, ref) -> str:
        return (await self.blobs.get(ref.digest)).decode()


@asynccontextmanager
async def requests_on(nats, folder: Path):
    """What publishes into the same log and blobs as a ManagerProcess in that folder."""
    async with open_event_store(nats.url, name="test", monitor_url=nats.monitor_url) as store:
        yield Requests(store, open_blob_store(f"file://{folder}/blobs"))


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


async def evaluation(
    requests: "Requests", run_id: str, script: str, attempt: int = 1, **fields
) -> ev.EvaluationRequested:
    bundle = await requests.blobs.put(tar_of({"grader.py": script.encode()}), "application/x-tar")
    asked = ev.EvaluationRequested(
        **requests.envelope(run_id),
        evaluation_id=requests.clock.new_id(),
        attempt=attempt,
        bundle=bundle,
        command=("python3", "/sandbox/grader.py"),
        outputs=(
            SandboxFile(path="/sandbox/report.xml", max_bytes=1000),
            SandboxFile(path="/sandbox/missing", max_bytes=1000),
        ),
        limits=SandboxLimits(),
        timeout_s=20,
        **fields,
    )
    await requests.store.append(run_id, [asked])
    return asked


async def until_log_has(manager, run_id: str, word: str) -> None:
    """Returns when the run's live log holds the word."""
    url = f"http://127.0.0.1:{manager.port}/v1/sandboxes/{run_id}/log"
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            async with http.get(url) as reply:
                if word in await reply.text():
                    return
            await asyncio.sleep(0.1)


async def until_patch_is_kept(manager, run_id: str) -> None:
    """Returns when the manager has a copy of what the run's agent changed."""
    async with asyncio.timeout(60):
        while not list(manager.state_dir.glob(f"logs/{run_id}.*.patch")):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def limits(**changes: object) -> RunLimits:
    return msgspec.structs.replace(RunLimits(agent_timeout_s=30, evaluation_timeout_s=30), **changes)
