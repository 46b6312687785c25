"""The ledger as a process of its own, for the tests."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from nats_process import NatsServer, free_port

from ridges.chassis.blob_store import open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.jetstream import open_event_store
from ridges.contracts.events import ProblemPublished

UP_WITHIN_S = 30.0


class LedgerProcess:
    """`python -m ridges.ledger` on a free port, its state in a folder; ports and state stay the same over restarts."""

    def __init__(self, nats_server: NatsServer, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.blobs_url = f"file://{folder}/blobs"
        self.settings = {
            "RIDGES_NATS_URL": nats_server.url,
            "RIDGES_NATS_MONITOR_URL": nats_server.monitor_url,
            "RIDGES_BLOBS_URL": self.blobs_url,
            "RIDGES_STATE_DIR": str(folder / "state"),
            "RIDGES_HTTP_PORT": str(self.port),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self.folder / "ledger.log").read_text(errors="replace")

    def start(self) -> "LedgerProcess":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIDGES_")}
        with (self.folder / "ledger.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ridges.ledger"], env=environment | self.settings, stdout=log, stderr=log
            )
        return self

    def kill9(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        """The exit code of a process that ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout=timeout_s)

    async def get(self, path: str, **options) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as client:
            return await client.get(path, **options)

    async def post(self, path: str, **options) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as client:
            return await client.post(path, **options)

    async def until_ready(self) -> None:
        await self.until("/readyz", lambda answer: answer.status_code == 200)

    async def until_run(self, run_id: str, fits) -> dict:
        return (await self.until(f"/v1/runs/{run_id}", lambda a: a.status_code == 200 and fits(a.json()))).json()

    async def until(self, path: str, fits) -> httpx.Response:
        """The first answer that fits."""
        deadline = time.monotonic() + UP_WITHIN_S
        answer: httpx.Response | None = None
        while time.monotonic() < deadline:
            try:
                answer = await self.get(path)
                if fits(answer):
                    return answer
            except httpx.TransportError:
                assert self.running, f"the ledger ended: {self.log[-3000:]}"
            await asyncio.sleep(0.05)
        raise AssertionError(f"{path}: {answer and answer.text}\n{self.log[-3000:]}")


async def publish_problem(nats_server: NatsServer, problem_id: str, blobs_url: str | None = None, **login) -> None:
    """Publish a problem as an evaluator does."""
    clock = SystemClock()
    async with open_event_store(nats_server.url, name="test", monitor_url=nats_server.monitor_url, **login) as store:
        blobs = open_blob_store(blobs_url or f"file://{nats_server.folder}/blobs")
        published = ProblemPublished(
            id=clock.new_id(),
            run_id=f"problem-{problem_id}",
            time=clock.now(),
            problem_id=problem_id,
            kind="fix",
            title="A bug",
            problem_digest="sha256:" + "a" * 64,
            statement=await blobs.put(b"do it", "text/markdown"),
            workspace=await blobs.put(b"tar", "application/x-tar"),
        )
        await store.append(published.run_id, [published])
