"""Agents as ordinary processes of this user: NO isolation. For developers who want a debugger on their own agent."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.interpreter import Interpreter, find_interpreter
from ridges.sandbox_manager.local_process import supervised
from ridges.sandbox_manager.memory_watch import Usage, watch_memory
from ridges.sandbox_manager.meter import metered
from ridges.sandbox_manager.owner import Mark
from ridges.sandbox_manager.ports import PROXY_SOCKET, WORKSPACE, SandboxExit, SandboxSpec
from ridges.sandbox_manager.wire import Measured, launch

_MARK_VARIABLE = "RIDGES_SANDBOX"
_KILLING_ROUNDS, _KILLING_PAUSE_S = 200, 0.005
_IN_TEXT = re.compile(rf"(?<![\w./-]){WORKSPACE}(?![\w.-])")
_log = structlog.get_logger()


class BareProcessSandbox:
    """The ``process`` adapter. Limits of time, output, file size and (polled) memory hold; nothing else is forbidden.

    What is named ``/sandbox`` in command, environment and outputs is a directory of its own; an agent that writes the
    path into its code does not find it.
    """

    name = "process"

    def __init__(self, *, state_dir: Path, python: Path | None = None) -> None:
        """Nothing is started or looked for before the first use.

        Args:
            state_dir: workspaces are made below it.
            python: interpreter with the packages that agents expect; null = the one that runs the manager.
        """
        self._directory, self._python = state_dir / "process", python
        self._interpreter: Interpreter | None = None
        self._at_work: set[str] = set()

    async def check(self) -> None:
        """See the port."""
        self._parts()
        for program in ("git", "bash"):
            if shutil.which(program) is None:
                raise SandboxUnavailable(f"{program} is not installed", f"install {program}")

    async def admit(self, spec: SandboxSpec) -> None:
        """See the port: there are no images."""

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        """See the port."""
        _log.warning("this sandbox isolates NOTHING: the agent can do all that you can do", run_id=spec.run_id)
        interpreter = self._parts()
        async with self._workspace(spec) as (mark, root):
            here = _relocated(spec, root / "sandbox")
            path = f"{interpreter.search_path}:{os.environ.get('PATH', os.defpath)}"
            env = {"PATH": path, "HOME": str(root / "home"), "LANG": "C.UTF-8", "TMPDIR": str(root / "tmp")}
            starting = launch(
                here,
                env=env | here.env | {_MARK_VARIABLE: mark},
                rlimits={"CORE": 0, "FSIZE": spec.limits.disk_bytes},
                python=str(interpreter.supervisor_executable),
                program=interpreter.program,
                proxy_socket=str(spec.proxy_dir / PROXY_SOCKET) if spec.proxy_dir else None,
                workspace=str(root / "sandbox"),
            )
            full, started, usage = asyncio.Event(), asyncio.Event(), Usage()
            async with supervised(starting.command, env=env | {_MARK_VARIABLE: mark}) as supervisor:
                watch = watch_memory(started, supervisor.pid, spec.limits.memory_bytes, (), usage, full.set)
                watching = asyncio.ensure_future(watch)
                try:
                    async with metered(spec, lambda: Measured(peak_memory_bytes=usage.peak_bytes or None)):
                        reply = await supervisor.converse(
                            here, starting, cancelled=cancelled, full=full, started=started
                        )
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
                if not reply.complete:
                    raise SandboxFailed(spec.run_id, f"it ended without a result {supervisor.complaints}".strip())
                return spec.told(_as_asked(reply.exit(Measured(peak_memory_bytes=usage.peak_bytes or None)), spec))

    async def sweep(self, live: set[str]) -> int:
        """Workspaces, and processes that carry our mark in their environment."""
        live = live | self._at_work
        removed = _kill_marked(lambda mark: mark.is_leftover(live))
        if self._directory.is_dir():
            for path in list(self._directory.iterdir()):
                mark = Mark.read(path.name)
                if mark and mark.is_leftover(live):
                    await asyncio.to_thread(_remove, path)
                    removed += 1
        return removed

    def _parts(self) -> Interpreter:
        if self._interpreter is None:
            self._interpreter = find_interpreter(self._python)
        return self._interpreter

    @asynccontextmanager
    async def _workspace(self, spec: SandboxSpec) -> AsyncIterator[tuple[str, Path]]:
        mark = str(Mark.own(spec.sandbox_id))
        root = self._directory.resolve() / mark
        self._at_work.add(spec.sandbox_id)
        try:
            for name in ("sandbox", "home", "tmp"):
                (root / name).mkdir(parents=True, mode=0o700)
            yield mark, root
        finally:
            try:
                await asyncio.shield(asyncio.to_thread(_end, mark, root))
            finally:
                self._at_work.discard(spec.sandbox_id)


def _relocated(spec: SandboxSpec, workspace: Path) -> SandboxSpec:
    """The spec with its own directory in place of ``/sandbox``."""

    def here(text: str) -> str:
        return _IN_TEXT.sub(lambda _: str(workspace), text)

    return msgspec.structs.replace(
        spec,
        command=tuple(map(here, spec.command)),
        env={name: here(value) for name, value in spec.env.items()},
        outputs=tuple(msgspec.structs.replace(file, path=here(file.path)) for file in spec.outputs),
    )


def _as_asked(left: SandboxExit, spec: SandboxSpec) -> SandboxExit:
    """The outputs under the paths that were asked for."""
    outputs = (
        msgspec.structs.replace(file, path=asked.path) for file, asked in zip(left.outputs, spec.outputs, strict=True)
    )
    return msgspec.structs.replace(left, outputs=tuple(outputs))


def _kill_marked(wanted: Callable[[Mark], bool]) -> int:
    """Kill every process whose environment carries a wanted mark; how many there were."""
    killed = 0
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            variables = (directory / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            name, _, value = variable.partition(b"=")
            mark = Mark.read(value.decode("ascii", "replace")) if name == _MARK_VARIABLE.encode() else None
            if mark and wanted(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(directory.name), signal.SIGKILL)
                killed += 1
    return killed


def _end(mark: str, root: Path) -> None:
    """Kill what carries the mark, remove its workspace. Who forks while ``/proc`` is read is found next time."""
    for _ in range(_KILLING_ROUNDS):
        if not _kill_marked(lambda found: str(found) == mark):
            break
        time.sleep(_KILLING_PAUSE_S)
    _remove(root)


def _remove(root: Path) -> None:
    """Also what the agent made unwritable."""
    for directory, _, _ in os.walk(root):
        with contextlib.suppress(OSError):
            Path(directory).chmod(0o700)
    if root.exists():
        shutil.rmtree(root)
