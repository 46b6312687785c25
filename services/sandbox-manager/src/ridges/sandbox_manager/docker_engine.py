"""Sandboxes as containers of a Docker Engine.

The SDK is synchronous: its calls are short and run in threads. The one long conversation, with the supervisor, is the
attached stream, whose socket is taken over by asyncio.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import docker  # type: ignore[import-untyped]
import msgspec
import structlog
from docker import errors as docker_errors

from ridges.contracts.events import ExitFacts
from ridges.sandbox_manager.docker_config import (
    OWNER_LABEL,
    PROXY_SOCKET_PATH,
    SANDBOX_LABEL,
    Image,
    command_env,
    command_rlimits,
    container_config,
    image_of,
)
from ridges.sandbox_manager.errors import ImageMissing, SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.ports import OutputFile, SandboxExit, SandboxSpec
from ridges.sandbox_manager.self_test import passes_self_test
from ridges.sandbox_manager.wire import CANCEL, Launch, Measured, ReplyReader, launch

log = structlog.get_logger(__name__)
T = TypeVar("T")

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
MIN_API = (1, 41)
"""Engine 20.10."""
OVERHEAD_S = 120.0
"""Unpacking before the command and collecting after it; the supervisor has tighter limits of its own."""
_EXIT_S = 10.0
_CALL_S = 60
_PIECE = 1 << 16
_MAX_STDERR = 4096
_HEADER = struct.Struct(">BxxxI")
_STDOUT = 1
_REMEDY = "look for settings of the Docker Engine that loosen containers (privileged defaults, seccomp off)"


class DockerSandbox:
    """The port ``Sandbox`` on a Docker Engine, 20.10 or newer."""

    name = "docker"

    def __init__(
        self,
        *,
        owner: str,
        default_image: str,
        engine_url: str | None = None,
        runtime: str | None = None,
        host_path: Callable[[Path], Path] = lambda path: path,
    ) -> None:
        """Takes no connection yet.

        Args:
            owner: id of this installation; only containers with it are ever swept.
            default_image: for specs that name none.
            engine_url: like DOCKER_HOST, which is the default.
            runtime: OCI runtime; null = the engine's default.
            host_path: a path of this process as the engine sees it.
        """
        self._owner, self._default_image, self._runtime = owner, default_image, runtime
        self._engine_url, self._host_path = engine_url or os.environ.get("DOCKER_HOST") or DEFAULT_ENGINE, host_path
        self._client: Any = None
        self._engine_cpus = 1
        self._at_work: set[str] = set()
        self._tested = ""
        """Id of the image that passed the self-test."""

    async def close(self) -> None:
        """Ends the connections to the engine."""
        if self._client is not None:
            await asyncio.to_thread(self._client.close)
            self._client = None

    async def check(self) -> None:
        try:
            image = await self._image(self._default_image)
        except ImageMissing as error:
            raise SandboxUnavailable(f"the sandbox image {error.image} is not on this machine", error.remedy) from error
        if self._tested == image.image_id:
            return
        await passes_self_test(self, _REMEDY)
        self._tested = image.image_id

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        image = await self._image(spec.image or self._default_image)
        started = launch(
            spec,
            env=command_env(spec, image),
            rlimits=command_rlimits(spec.limits),
            proxy_socket=PROXY_SOCKET_PATH if spec.proxy_dir else None,
        )
        config = container_config(
            spec,
            started.command,
            image,
            owner=self._owner,
            engine_cpus=self._engine_cpus,
            proxy_dir=self._host_path(spec.proxy_dir) if spec.proxy_dir else None,
            runtime=self._runtime,
        )
        name = f"ridges-{spec.sandbox_id}"
        self._at_work.add(spec.sandbox_id)
        try:
            await self._ask(lambda api: api.create_container_from_config(config, name))
            return await self._converse(spec, name, started, cancelled)
        finally:
            await _to_its_end(self._remove(name))
            self._at_work.discard(spec.sandbox_id)

    async def sweep(self, live: set[str]) -> int:
        ours = {"label": f"{OWNER_LABEL}={self._owner}"}
        found = await self._ask(lambda api: api.containers(all=True, filters=ours))
        keep = live | self._at_work
        dead = [container["Id"] for container in found if container["Labels"].get(SANDBOX_LABEL) not in keep]
        for container_id in dead:
            await self._remove(container_id)
        return len(dead)

    async def _converse(self, spec: SandboxSpec, name: str, started: Launch, cancelled: asyncio.Event) -> SandboxExit:
        reply, stderr = ReplyReader(spec, started.nonce), bytearray()
        async with self._attached(name) as (reader, writer):
            try:
                await self._ask(lambda api: api.start(name))
            except SandboxUnavailable as error:
                raise SandboxFailed(spec.run_id, f"the engine did not start it: {error.reason}") from error
            try:
                async with asyncio.timeout(spec.timeout_s + OVERHEAD_S) as limit:
                    say = asyncio.create_task(_say(writer, started, cancelled, limit))
                    try:
                        await _listen(reader, reply, stderr)
                    finally:
                        say.cancel()
                        await asyncio.gather(say, return_exceptions=True)
            except TimeoutError:
                raise SandboxFailed(spec.run_id, "it did not hand over a result after its end") from None
        return await self._exit(spec, name, reply, stderr)

    @contextlib.asynccontextmanager
    async def _attached(self, name: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """The container's streams. Leaving closes its stdin, at which its supervisor ends everything."""
        with contextlib.ExitStack() as held:
            attached = await self._ask(lambda api: held.enter_context(_attach(api, name)))
            reader, writer = await asyncio.open_unix_connection(sock=attached)
            try:
                yield reader, writer
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _exit(self, spec: SandboxSpec, name: str, reply: ReplyReader, stderr: bytearray) -> SandboxExit:
        out_of_memory, exit_code = await self._state(name)
        if reply.complete:
            return reply.exit(Measured(out_of_memory=out_of_memory))
        if out_of_memory:
            return _nothing_left(spec)
        words = stderr.decode(errors="replace").strip()
        raise SandboxFailed(spec.run_id, f"its first process ended with exit code {exit_code} and no result: {words}")

    async def _state(self, name: str) -> tuple[bool, int | None]:
        """(out of memory, exit code) once the container has exited, which takes its supervisor some milliseconds."""
        give_up = asyncio.get_running_loop().time() + _EXIT_S
        while True:
            state = (await self._ask(lambda api: api.inspect_container(name)))["State"]
            if not state["Running"] or asyncio.get_running_loop().time() > give_up:
                return bool(state["OOMKilled"]), state.get("ExitCode")
            await asyncio.sleep(0.02)

    async def _remove(self, name: str) -> None:
        try:
            await self._ask(lambda api: api.remove_container(name, force=True, v=True))
        except (SandboxUnavailable, ImageMissing) as error:
            gone = isinstance(error.__cause__, docker_errors.NotFound)
            busy = isinstance(error.__cause__, docker_errors.APIError) and error.__cause__.status_code == 409
            if not gone and not busy:
                log.warning("a container was not removed; the next sweep tries again", container=name, error=str(error))

    async def _image(self, name: str) -> Image:
        try:
            inspected: dict[str, Any] = await self._ask(lambda api: api.inspect_image(name))
        except SandboxUnavailable as error:
            if isinstance(error.__cause__, docker_errors.NotFound):
                raise ImageMissing(name, _how_to_get(name)) from error
            raise
        return image_of(inspected)

    async def _ask(self, call: Callable[[Any], T]) -> T:
        """One short call in a thread, with the engine's troubles as ours; it ends even when we are cancelled."""
        return await _to_its_end(asyncio.to_thread(self._call, call))

    def _call(self, call: Callable[[Any], T]) -> T:
        try:
            if self._client is None:
                self._client = self._connect()
            return call(self._client)
        except docker_errors.APIError as error:
            raise SandboxUnavailable(
                f"the Docker Engine refused: {error.explanation or error}", "look into the engine's log"
            ) from error
        except (docker_errors.DockerException, OSError) as error:
            raise _unreachable(error, self._engine_url) from error

    def _connect(self) -> Any:
        if not self._engine_url.startswith("unix://"):
            raise SandboxUnavailable(
                f"{self._engine_url} is not a local Docker Engine",
                "sandboxes reach their proxy by a Unix socket: use unix:///var/run/docker.sock",
            )
        with socket.socket(socket.AF_UNIX) as probe:  # says more than the SDK does, and closes what it opened
            probe.connect(self._engine_url.removeprefix("unix://"))
        client = docker.APIClient(base_url=self._engine_url, version="auto", timeout=_CALL_S)
        try:
            if tuple(map(int, client.api_version.split("."))) < MIN_API:
                raise SandboxUnavailable("the Docker Engine is older than 20.10", "update it")
            self._engine_cpus = int(client.info()["NCPU"])
        except BaseException:
            client.close()
            raise
        return client


def _attach(api: Any, name: str) -> socket.socket:
    """The container's three streams on one socket, before it starts: nothing is missed."""
    raw = api.attach_socket(name, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    attached = socket.socket(fileno=os.dup(raw.fileno()))
    raw._response.close()  # noqa: SLF001 - the SDK keeps it there, and would close it too late
    raw.close()
    attached.setblocking(False)
    return attached


async def _say(writer: asyncio.StreamWriter, started: Launch, cancelled: asyncio.Event, limit: asyncio.Timeout) -> None:
    """Everything that the supervisor must know; later, perhaps, that it must end. stdin stays open."""
    with contextlib.suppress(ConnectionError):
        for piece in started.stdin:
            view = memoryview(piece)
            for at in range(0, len(view), _PIECE):
                writer.write(view[at : at + _PIECE])
                await writer.drain()
        await cancelled.wait()
        limit.reschedule(asyncio.get_running_loop().time() + OVERHEAD_S)
        writer.write(CANCEL)
        await writer.drain()


async def _listen(reader: asyncio.StreamReader, reply: ReplyReader, stderr: bytearray) -> None:
    """Until the result is complete or the stream ends."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while not reply.complete:
            stream, size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            while size:
                piece = await reader.readexactly(min(size, _PIECE))
                size -= len(piece)
                if stream == _STDOUT:
                    reply.feed(piece)
                else:
                    stderr += piece
                    del stderr[:-_MAX_STDERR]


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work to its end before a cancellation of ours goes on: half-made containers are leftovers."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _nothing_left(spec: SandboxSpec) -> SandboxExit:
    """Not even the supervisor survived the memory limit."""
    return SandboxExit(
        exit=ExitFacts(exit_code=None, out_of_memory=True, wall_s=0.0),
        log=b"",
        outputs=tuple(OutputFile(path=file.path, problem="missing") for file in spec.outputs),
        difference_problem="the whole sandbox ran out of memory" if spec.repo else None,
    )


def _how_to_get(image: str) -> str:
    name = image.rpartition("/")[2].partition(":")[0]
    ours = name.removeprefix("ridges-")
    return f"build it: ./just images {ours}" if name.startswith("ridges-") else f"get it: docker pull {image}"


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
    return SandboxUnavailable(f"the Docker Engine at {where} does not answer: {error}", "look into the engine's log")


class HostPath(msgspec.Struct, frozen=True):
    """Turns paths below our state directory into the engine's: for a manager that runs in a container itself."""

    inside: Path
    outside: Path

    def __call__(self, path: Path) -> Path:
        return self.outside / path.relative_to(self.inside)
