"""A real evaluator process against a real log."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
from nats_process import free_port

END_S = 60


class EvaluatorProcess:
    """`python -m ridges.evaluator`, started, killed and started again on the same log and blobs."""

    def __init__(self, folder: Path, *, nats, problems: Path, **settings: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "evaluator.log"
        self.env = {
            "RIDGES_NATS_URL": nats.url,
            "RIDGES_NATS_MONITOR_URL": nats.monitor_url,
            "RIDGES_BLOBS_URL": f"file://{folder}/blobs",
            "RIDGES_PROBLEMS_DIRS": str(problems),
            "RIDGES_HTTP_PORT": str(self.port),
            "RIDGES_DRAIN_TIMEOUT_S": "2",
        } | {f"RIDGES_{name.upper()}": str(value) for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start, without waiting."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RIDGES_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ridges.evaluator"],
                env=environ | self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def start(self) -> None:
        self.launch()
        status, said = 0, {}
        try:
            async with asyncio.timeout(60):
                while status != 200:
                    assert self._process.poll() is None, self.words()
                    await asyncio.sleep(0.05)
                    with contextlib.suppress(aiohttp.ClientError):
                        status, said = await self.get("/readyz")
        except BaseException:
            await self.end(signal.SIGKILL)
            raise
        assert status == 200, said

    async def get(self, path: str):
        """(status, JSON)."""
        async with aiohttp.ClientSession() as http, http.get(self.url + path) as reply:
            return reply.status, await reply.json(content_type=None)

    async def post(self, path: str, body: object):
        async with aiohttp.ClientSession() as http, http.post(self.url + path, json=body) as reply:
            return reply.status, await reply.json(content_type=None)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self._process.poll() is None:
            self._process.send_signal(number)
        return await self.exit_code()

    async def exit_code(self) -> int:
        try:
            return await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            raise AssertionError(f"it did not end within {END_S} s\n{self.words()}") from None

    def words(self) -> str:
        return self.log.read_text()[-8000:]
