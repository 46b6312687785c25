"""Sandboxes as containers of a Docker Engine. The one long conversation is with the supervisor, on its streams."""

import asyncio
import contextlib
import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from ridges.contracts.events import ExitFacts, SandboxFile
from ridges.contracts.limits import Network
from ridges.sandbox_manager.cgroups import COLLECTING_BYTES, ControlGroup, group_of_container
from ridges.sandbox_manager.docker_config import (
    HOSTS,
    OWNER_LABEL,
    PROXY_SOCKET_PATH,
    RELAY_PORT,
    RELAY_URL,
    SANDBOX_LABEL,
    Image,
    command_env,
    command_rlimits,
    container_config,
    image_of,
    relay_config,
)
from ridges.sandbox_manager.docker_relay import Relay, relaying
from ridges.sandbox_manager.docker_talk import OVERHEAD_S, listen, say
from ridges.sandbox_manager.engine_api import EngineApi, refused, to_its_end
from ridges.sandbox_manager.errors import ImageMissing, SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.inside import COMPILE_IN_SANDBOX, COMPILED, relay_command, supervisor_program
from ridges.sandbox_manager.meter import metered
from ridges.sandbox_manager.ports import WORKSPACE, OutputFile, SandboxExit, SandboxSpec
from ridges.sandbox_manager.seccomp import filter_program
from ridges.sandbox_manager.self_test import echoing, passes_self_test
from ridges.sandbox_manager.unix_http import Streams
from ridges.sandbox_manager.wire import OUT_OF_MEMORY, Launch, Measured, ReplyReader, launch

log = structlog.get_logger(__name__)

_EXIT_S = 10.0
_MAX_PROGRAM = 1 << 20
_BAD_REQUEST, _NOT_FOUND, _CONFLICT = 400, 404, 409
_REMEDY = (
    "look for settings of the Docker Engine that loosen containers (privileged defaults, seccomp off), and into its "
    "log: sudo journalctl -u docker -n 50"
)
_OTHER_RUNTIME = "ask for another runtime, or mend this one (docs/sandboxes.md; sudo journalctl -u docker -n 50)"
_NOT_INTERNAL = "ask for the network socket, or use an engine and a runtime whose containers can share a network"
Mode = tuple[str | None, Network]
"""Runtime (null = ours) and network of a sandbox: each pair passes a self-test of its own."""
_OURS: Mode = (None, "socket")


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
        network: Network = "socket",
        host_path: Callable[[Path], Path] = lambda path: path,
        hosts_file: Path | None = None,
    ) -> None:
        """Takes no connection yet.

        Args:
            owner: id of this installation; only containers with it are ever swept.
            default_image: for specs that name none.
            engine_url: like DOCKER_HOST, which is the default.
            runtime: OCI runtime; null = the engine's default.
            network: of specs that name none.
            host_path: a path of this process as the engine sees it.
            hosts_file: where the sandboxes' /etc/hosts is kept; null = in a temporary directory.
        """
        self._owner, self._default_image, self._runtime = owner, default_image, runtime
        self._network, self._host_path = network, host_path
        self._engine = EngineApi(engine_url)
        self._hosts_file = hosts_file
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._at_work: set[str] = set()
        self._tested: dict[Mode, str] = {}
        """-> id of the image that passed the self-test in it."""
        self._testing = asyncio.Lock()
        self._compiled: tuple[str, bytes | None] = ("", None)
        """Id of an image, and the supervisor as that image's own interpreter compiled it."""

    async def close(self) -> None:
        """No sandbox may be started afterwards."""
        if self._temporary:
            self._temporary.cleanup()

    async def check(self) -> None:
        try:
            image = await self._image(self._default_image)
        except ImageMissing as error:
            raise SandboxUnavailable(f"the sandbox image {error.image} is not on this machine", error.remedy) from error
        await self._self_test(image.image_id, _OURS)
        if self._network != "socket":
            await self._self_test(image.image_id, (None, self._network))

    async def admit(self, spec: SandboxSpec) -> None:
        """See the port. The default image was there at the self-test; another mode must pass one of its own."""
        if spec.image is not None:
            await self._image(spec.image)
        if (mode := self._mode(spec)) != _OURS:
            await self._self_test((await self._image(self._default_image)).image_id, mode)

    def _mode(self, spec: SandboxSpec) -> Mode:
        """An evaluation has no proxy, and no relay that would lead there."""
        runtime = spec.limits.runtime if spec.limits.runtime != self._runtime else None
        return runtime, (spec.limits.network or self._network) if spec.kind == "agent" else "socket"

    async def _self_test(self, image_id: str, mode: Mode) -> None:
        if self._tested.get(mode) == image_id:  # waits for nobody's test in another mode
            return
        runtime, network = mode
        async with self._testing, contextlib.AsyncExitStack() as resources:
            if self._tested.get(mode) == image_id:
                return
            proxy_dir = None
            if network == "internal":
                proxy_dir = await resources.enter_async_context(echoing(self._hosts().parent / "self-test"))
            left = await passes_self_test(
                self,
                _NOT_INTERNAL if proxy_dir else _OTHER_RUNTIME if runtime else _REMEDY,
                errand=COMPILE_IN_SANDBOX,
                files=(_tar("supervisor", supervisor_program()),),
                outputs=(SandboxFile(path=f"{WORKSPACE}/{COMPILED}", max_bytes=_MAX_PROGRAM),),
                runtime=runtime,
                proxy_dir=proxy_dir,
            )
            self._tested[mode], self._compiled = image_id, (image_id, left.outputs[0].content)

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        image = await self._image(spec.image or self._default_image)
        relayed = spec.proxy_dir is not None and self._mode(spec)[1] == "internal"
        started = launch(
            spec,
            env=command_env(spec, image),
            rlimits=command_rlimits(spec.limits),
            program=self._compiled[1] if self._compiled[0] == image.image_id else None,
            proxy_socket=PROXY_SOCKET_PATH if spec.proxy_dir and not relayed else None,
            proxy_url=RELAY_URL if relayed else "",
            seccomp=filter_program(counted_memory=True),
        )
        name = f"ridges-{spec.sandbox_id}"
        relay_name = f"{name}-relay"
        self._at_work.add(spec.sandbox_id)
        ends_itself = False
        try:
            async with contextlib.AsyncExitStack() as streams:  # leaving closes their stdin, which ends them
                relay = await self._relay(spec, relay_name, streams) if relayed else None
                container_id = await self._create(spec, name, image, started, relay)
                talk = await streams.enter_async_context(self._engine.attached(name))
                end = await self._converse(spec, container_id, started, cancelled, talk, relay)
                ends_itself = True
                return spec.told(end)
        except (SandboxUnavailable, SandboxFailed):
            # an engine that is going still answers what needs no container: check with one
            self._tested.pop(self._mode(spec), None)
            raise
        finally:
            try:
                await to_its_end(self._remove_all([name, relay_name][: 1 + relayed], ends_itself=ends_itself))
            finally:  # also when it is cancelled meanwhile: else no sweep would ever remove what is left
                self._at_work.discard(spec.sandbox_id)

    async def sweep(self, live: set[str]) -> int:
        before = set(self._at_work)  # what ends while the engine is asked is no leftover
        found = await self._engine.labelled(f"{OWNER_LABEL}={self._owner}")
        keep = live | before | self._at_work
        dead = [container["Id"] for container in found if container["Labels"].get(SANDBOX_LABEL) not in keep]
        for container_id in dead:
            await self._remove(container_id)
        return len(dead)

    async def _relay(self, spec: SandboxSpec, name: str, streams: contextlib.AsyncExitStack) -> Relay:
        """On its way to serve."""
        assert spec.proxy_dir is not None
        config = relay_config(
            spec,
            relay_command(PROXY_SOCKET_PATH, RELAY_PORT),
            await self._image(self._default_image),
            owner=self._owner,
            proxy_dir=self._host_path(spec.proxy_dir),
            runtime=spec.limits.runtime or self._runtime,
        )
        return await streams.enter_async_context(relaying(self._engine, config, name, spec.run_id))

    async def _create(self, spec: SandboxSpec, name: str, image: Image, started: Launch, relay: Relay | None) -> str:
        runtime = spec.limits.runtime or self._runtime
        config = container_config(
            spec,
            started.command,
            image,
            owner=self._owner,
            engine_cpus=self._engine.cpus,
            hosts_file=self._host_path(self._hosts()),
            proxy_dir=self._host_path(spec.proxy_dir) if spec.proxy_dir and not relay else None,
            runtime=runtime,
            relay=relay.name if relay else None,
        )
        try:
            return await self._engine.create(config, name)
        except SandboxUnavailable as error:
            if runtime and "runtime" in error.reason and refused(error) == _BAD_REQUEST:
                remedy = f"register {runtime} in /etc/docker/daemon.json and reload the engine, or ask for another"
                raise SandboxUnavailable(error.reason, remedy) from error
            raise

    def _hosts(self) -> Path:
        """Their /etc/hosts, there and complete."""
        if self._hosts_file is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="ridges-")
            self._hosts_file = Path(self._temporary.name) / "hosts"
        if not self._hosts_file.exists():
            new = self._hosts_file.with_suffix(".new")
            new.write_text(HOSTS)
            new.chmod(0o644)
            new.replace(self._hosts_file)
        return self._hosts_file

    async def _converse(
        self,
        spec: SandboxSpec,
        container_id: str,
        started: Launch,
        cancelled: asyncio.Event,
        streams: Streams,
        relay: Relay | None,
    ) -> SandboxExit:
        reader, writer = streams
        reply, stderr = ReplyReader(spec, started.nonce), bytearray()
        group: ControlGroup | None = None

        def collecting() -> None:
            nonlocal group
            group = group_of_container(container_id)
            if group:
                group.grant(spec.limits.memory_bytes + COLLECTING_BYTES)

        try:
            async with asyncio.timeout(spec.timeout_s + OVERHEAD_S) as limit:
                saying = asyncio.create_task(say(writer, started, cancelled, limit))
                listening = asyncio.create_task(listen(reader, reply, stderr, collecting))
                try:
                    if relay:
                        await relay.serves()
                    await self._start(spec, container_id)  # the engine writes files before it says that it did
                    async with metered(spec, lambda: _measured(group_of_container(container_id))):
                        if relay and not await relay.outlives(listening) and not reply.collecting:
                            await self._end_without(relay, writer)
                        await listening
                finally:
                    saying.cancel()
                    listening.cancel()
                    await asyncio.gather(saying, listening, return_exceptions=True)
        except TimeoutError:
            raise SandboxFailed(spec.run_id, "it did not hand over a result after its end") from None
        if reply.complete and (measured := _measured(group)):
            return reply.exit(measured)
        writer.close()
        return await self._exit_without_group(spec, container_id, reply, stderr)

    async def _end_without(self, relay: Relay, writer: asyncio.StreamWriter) -> None:
        """Has the sandbox hand over what it has: what it made its relay hold counts as its own memory.

        Raises:
            SandboxFailed: the relay ended of something else.
        """
        out_of_memory, exit_code = await self._state(relay.name)
        if not out_of_memory:
            raise relay.ended(exit_code)
        with contextlib.suppress(ConnectionError):
            writer.write(OUT_OF_MEMORY)
            await writer.drain()

    async def _start(self, spec: SandboxSpec, container_id: str) -> None:
        try:
            await self._engine.start(container_id)
        except SandboxUnavailable as error:
            raise SandboxFailed(spec.run_id, f"the engine did not start it: {error.reason}") from error

    async def _exit_without_group(
        self, spec: SandboxSpec, container_id: str, reply: ReplyReader, stderr: bytearray
    ) -> SandboxExit:
        """Only the engine knows how it ended, once it has."""
        out_of_memory, exit_code = await self._state(container_id)
        if reply.complete:
            return reply.exit(Measured(out_of_memory=out_of_memory))
        if out_of_memory:
            return _nothing_left(spec)
        words = stderr.decode(errors="replace").strip()
        raise SandboxFailed(spec.run_id, f"its first process ended with exit code {exit_code} and no result: {words}")

    async def _state(self, container_id: str) -> tuple[bool, int | None]:
        """(out of memory, exit code) once the container has exited, which takes its supervisor some milliseconds."""
        give_up = asyncio.get_running_loop().time() + _EXIT_S
        while True:
            state = await self._engine.state(container_id)
            if not state["Running"] or asyncio.get_running_loop().time() > give_up:
                return bool(state["OOMKilled"]), state.get("ExitCode")
            await asyncio.sleep(0.02)

    async def _remove_all(self, names: list[str], *, ends_itself: bool) -> None:
        await asyncio.gather(*(self._remove(name, ends_itself=ends_itself) for name in names))

    async def _remove(self, name: str, *, ends_itself: bool = False) -> None:
        """Gone afterwards. To kill one that ends itself at once would take the engine a process of the runtime more."""
        if ends_itself:
            with contextlib.suppress(SandboxUnavailable):
                await self._engine.ended(name, _EXIT_S)
        try:
            await self._engine.remove(name)
        except SandboxUnavailable as error:
            if refused(error) not in (_NOT_FOUND, _CONFLICT):
                log.warning("a container was not removed; the next sweep tries again", container=name, error=str(error))

    async def _image(self, name: str) -> Image:
        try:
            inspected = await self._engine.image(name)
        except SandboxUnavailable as error:
            if refused(error) == _NOT_FOUND:
                raise ImageMissing(name, _how_to_get(name)) from error
            raise
        return image_of(inspected)


def _measured(group: ControlGroup | None) -> Measured | None:
    """What the container's control group says; None when it is not there (any more)."""
    measured = group.measured() if group else None
    return measured if measured and measured.peak_memory_bytes else None


def _nothing_left(spec: SandboxSpec) -> SandboxExit:
    """Not even the supervisor survived the memory limit."""
    return SandboxExit(
        exit=ExitFacts(exit_code=None, out_of_memory=True, wall_s=0.0),
        log=b"",
        outputs=tuple(OutputFile(path=file.path, problem="missing") for file in spec.outputs),
        difference_problem="the whole sandbox ran out of memory" if spec.repo else None,
    )


def _tar(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _how_to_get(image: str) -> str:
    name = image.rpartition("/")[2].partition(":")[0]
    ours = name.removeprefix("ridges-")
    return f"build it: ./just images {ours}" if name.startswith("ridges-") else f"get it: docker pull {image}"


class HostPath(msgspec.Struct, frozen=True):
    """Turns paths below our state directory into the engine's: for a manager that runs in a container itself."""

    inside: Path
    outside: Path

    def __call__(self, path: Path) -> Path:
        return self.outside / path.relative_to(self.inside)
