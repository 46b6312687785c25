"""A real KurrentDB in a container, where the public image can be had."""

import asyncio
import subprocess

import pytest
from kurrentdbclient import AsyncKurrentDBClient
from nats_process import free_port
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

IMAGE = "kurrentplatform/kurrentdb:25.1"
PULL_TIMEOUT_S = 300
START_TIMEOUT_S = 90


@pytest.fixture(scope="session")
def kurrentdb_image():
    """Skips where no engine has the image or can pull it. Never a failure: that needs the network."""
    for command in (["docker", "image", "inspect", IMAGE], ["docker", "pull", "--quiet", IMAGE]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PULL_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no Docker Engine here has or can pull the public image {IMAGE}: {error}")
        if done.returncode == 0:
            return
    pytest.skip(f"no Docker Engine here has or can pull the public image {IMAGE}: {done.stderr.strip()[:200]}")


class KurrentServer:
    """``async with KurrentServer() as kurrentdb``; its log outlives ``stop`` and ``start``."""

    def __init__(self) -> None:
        testcontainers_config.ryuk_disabled = True  # one more image of a registry; __aexit__ removes the container
        self._port = free_port()
        self._container = DockerContainer(IMAGE)
        self._container.ports["2113"] = ("127.0.0.1", self._port)  # a fixed one: a restart must not change it
        self._container.with_env("KURRENTDB_INSECURE", "true").with_env("KURRENTDB_RUN_PROJECTIONS", "None")

    @property
    def url(self) -> str:
        return f"kurrentdb://127.0.0.1:{self._port}?Tls=false"

    async def __aenter__(self):
        await asyncio.to_thread(self._container.start)
        await self._wait_until_up()
        return self

    async def __aexit__(self, *_exc):
        await asyncio.to_thread(self._container.stop)

    async def start(self) -> None:
        await asyncio.to_thread(self._container.get_wrapped_container().start)
        await self._wait_until_up()

    async def stop(self) -> None:
        """As kill -9 does."""
        await asyncio.to_thread(self._container.get_wrapped_container().kill)

    async def _wait_until_up(self) -> None:
        client = AsyncKurrentDBClient(self.url)
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                try:
                    await client.get_stream_metadata("ridges-log", timeout=2)
                    break
                except Exception:  # noqa: BLE001 - it is not up yet, and says so in many ways
                    await asyncio.sleep(0.5)
        await client.close()
