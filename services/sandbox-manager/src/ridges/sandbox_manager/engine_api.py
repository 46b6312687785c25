"""Calls to a Docker Engine. The SDK is synchronous: its calls are short and run in threads."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import docker  # type: ignore[import-untyped]
from docker import errors as docker_errors

from ridges.sandbox_manager.errors import SandboxUnavailable

T = TypeVar("T")

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
MIN_API = (1, 41)
"""Engine 20.10."""
_CALL_S = 60
_READ_LOG = "read its log: sudo journalctl -u docker -n 50"


class EngineApi:
    """One engine, asked by many tasks of one loop."""

    def __init__(self, url: str | None) -> None:
        """Takes no connection yet. ``url`` is like DOCKER_HOST, which is the default."""
        self._url = url or os.environ.get("DOCKER_HOST") or DEFAULT_ENGINE
        self._client: Any = None
        self.cpus = 1

    async def close(self) -> None:
        """Ends the connections to the engine."""
        if self._client is not None:
            await asyncio.to_thread(self._client.close)
            self._client = None

    async def ask(self, call: Callable[[Any], T]) -> T:
        """One short call in a thread; it ends even when we are cancelled.

        Raises:
            SandboxUnavailable: the engine's troubles as ours; ``__cause__`` is the SDK's error.
        """
        return await to_its_end(asyncio.to_thread(self._call, call))

    async def attach(self, container: str) -> socket.socket:
        """The container's three streams on one non-blocking socket; before it starts, nothing is missed."""
        return await self.ask(lambda api: _attach(api, container))

    @contextlib.asynccontextmanager
    async def attached(self, container: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """The same for asyncio. Leaving closes the container's stdin."""
        with contextlib.ExitStack() as held:
            sock = await self.ask(lambda api: held.enter_context(_attach(api, container)))
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            try:
                yield reader, writer
            finally:
                writer.transport.abort()  # what was not sent yet, nobody reads any more
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def _call(self, call: Callable[[Any], T]) -> T:
        try:
            if self._client is None:
                self._client = self._connect()
            return call(self._client)
        except docker_errors.APIError as error:
            raise SandboxUnavailable(f"the Docker Engine refused: {error.explanation or error}", _READ_LOG) from error
        except (docker_errors.DockerException, OSError) as error:
            raise _unreachable(error, self._url) from error

    def _connect(self) -> Any:
        if not self._url.startswith("unix://"):
            raise SandboxUnavailable(
                f"{self._url} is not a local Docker Engine",
                "sandboxes reach their proxy by a Unix socket: use unix:///var/run/docker.sock",
            )
        with socket.socket(socket.AF_UNIX) as probe:  # says more than the SDK does, and closes what it opened
            probe.connect(self._url.removeprefix("unix://"))
        client = docker.APIClient(base_url=self._url, version="auto", timeout=_CALL_S)
        try:
            if tuple(map(int, client.api_version.split("."))) < MIN_API:
                raise SandboxUnavailable("the Docker Engine is older than 20.10", "update it")
            self.cpus = int(client.info()["NCPU"])
        except BaseException:
            client.close()
            raise
        return client


def _attach(api: Any, container: str) -> socket.socket:
    raw = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    attached = socket.socket(fileno=os.dup(raw.fileno()))
    raw._response.close()  # noqa: SLF001 - the SDK keeps it there, and would close it too late
    raw.close()
    attached.setblocking(False)
    return attached


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work to its end before a cancellation of ours goes on: half-made containers are leftovers."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def refused(error: SandboxUnavailable) -> int | None:
    """The status with which the engine refused; None when it did not even answer."""
    cause = error.__cause__
    return cause.status_code if isinstance(cause, docker_errors.APIError) else None


def _unreachable(error: Exception, where: str) -> SandboxUnavailable:
    if isinstance(error, PermissionError):
        return SandboxUnavailable(
            f"no permission to use the Docker Engine at {where}",
            "add this user to its group: sudo usermod -aG docker $USER",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return SandboxUnavailable(
            f"no Docker Engine answers at {where}",
            "start it: sudo systemctl start docker (or infra/ci/install-docker.sh)",
        )
    return SandboxUnavailable(f"the Docker Engine at {where} does not answer: {error}", _READ_LOG)
