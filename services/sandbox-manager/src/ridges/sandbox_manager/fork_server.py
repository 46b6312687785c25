"""Sandboxes forked from a process that has their supervisor loaded already: no interpreter to start, no bwrap.

The server (``inside.fork_server``) runs on the sandboxes' interpreter, outside of them, in a mount namespace where
everything is read-only: what is forked without executing anything anew keeps a link to the interpreter's own file.
"""

import asyncio
import contextlib
import ctypes
import marshal
import os
import select
import signal
import socket
import struct
import subprocess
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import msgspec
import structlog

from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.host_uids import host_uid
from ridges.sandbox_manager.inside import fork_server_command
from ridges.sandbox_manager.interpreter import Interpreter
from ridges.sandbox_manager.local_process import LocalSupervisor, looked_after
from ridges.sandbox_manager.mount_tree import HOME, Step
from ridges.sandbox_manager.ports import WORKSPACE, SandboxSpec
from ridges.sandbox_manager.staging import checked, libc, mount
from ridges.sandbox_manager.wire import Launch, without_program

log = structlog.get_logger(__name__)

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x8000000, 0x10000000, 0x40000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
_START_S = 30.0
_MARSHAL_VERSION = 2
_MOST_SERVERS = 4
_UNFIT_S = 600.0
"""How long a kind is left alone whose server did not start."""
_PID = struct.Struct("=i")


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What commands have in common that can be prepared for by one server."""

    options: tuple[str, ...]
    """Of the interpreter."""
    modules: tuple[str, ...] = ()
    """To have loaded."""
    pytest: tuple[str, ...] = ()
    """Arguments of one that is to be ready."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that the interpreter itself obeys."""

    @classmethod
    def of(cls, options: tuple[str, ...], spec: SandboxSpec, environment: Mapping[str, str]) -> "Kind":
        """The kind of a spec's command, run with these options in this environment."""
        obeyed = sorted((name, value) for name, value in environment.items() if name.startswith("PYTHON"))
        return cls(options=options, modules=spec.preload, pytest=spec.pytest, environment=tuple(obeyed))


class Forked:
    """A sandbox's keeper: a child of the fork server, which dies with it and with which its sandbox dies."""

    def __init__(self, pid: int, pidfd: int, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self._pidfd = pidfd

    def kill(self) -> None:
        """See ``local_process.Process``."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def pidfd(self) -> int | None:
        """See ``local_process.Process``."""
        return os.dup(self._pidfd)

    def reap(self) -> None:
        """See ``local_process.Process``: its parent does; here its end is waited for."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll()
        os.close(self._pidfd)


class ForkServer:
    """One server process and the socket to it. Ends with this object, at the latest."""

    def __init__(self, interpreter: Interpreter, kind: "Kind | None") -> None:
        """Nothing is started yet.

        Args:
            interpreter: of the sandboxes.
            kind: of the commands that are prepared; None = none are.
        """
        self._interpreter, self._kind = interpreter, kind
        self._socket: socket.socket | None = None
        self._end: Callable[[], object] | None = None
        self._starting = asyncio.Lock()
        self._reading: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[asyncio.Future[tuple[int, int]]] = deque()

    async def start(self) -> None:
        """Returns when it serves. Raises ``SandboxUnavailable`` when it does not come to that."""
        async with self._starting:
            if self._socket is None:
                await self._start()

    async def fork(self, order: Mapping[str, object]) -> tuple[Forked, int]:
        """A sandbox's keeper, and where it tells the host's pid of the supervisor (as bwrap does); close that.

        Raises:
            SandboxUnavailable: the server does not start or answer.
        """
        ours, theirs = _pipes(marshal.dumps(dict(order), _MARSHAL_VERSION))
        try:
            pid, pidfd = await self._told(theirs)
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        stdin, stdout, stderr, info = ours
        opened = os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0), os.fdopen(stderr, "rb", 0)
        return Forked(pid, pidfd, *opened), info

    def close(self) -> None:
        """End it, and what it has forked."""
        self._read_no_more()
        if self._end:
            self._end()
        self._socket = self._end = None
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(SandboxUnavailable("the fork server has ended", "try again"))

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        program = self._interpreter.fork_server_program
        kind = self._kind or Kind(options=("-I", "-S", "-E", "-B"))
        python = _as_commands_find_it(self._interpreter) if self._kind else self._interpreter.supervisor_executable
        pytest = (WORKSPACE, *kind.pytest) if kind.pytest else ()
        command = fork_server_command(str(python), kind.options, program, theirs.fileno(), kind.modules, pytest)
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # in this thread: parent-death signals follow it
                command,
                env={"LANG": "C.UTF-8", "HOME": HOME, **dict(kind.environment)},
                cwd="/",
                pass_fds=[theirs.fileno()],
                preexec_fn=_be_apart_or_say_why,  # noqa: PLW1509  # once: for all starts
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            raise SandboxUnavailable(f"the fork server cannot be started ({error})", "run `ridges doctor`") from error
        finally:
            theirs.close()
        end = weakref.finalize(self, _ended, process, ours)
        try:
            await asyncio.to_thread(_hand_over, process, program)
            async with asyncio.timeout(_START_S):
                ready = await asyncio.get_running_loop().sock_recv(ours, 100)
        except (OSError, TimeoutError):
            ready = b""
        except BaseException:
            end()
            raise
        if ready != b"ready":
            words = await asyncio.to_thread(_last_words, process) or "it ended without a word"
            end()
            raise SandboxUnavailable(f"the fork server does not start: {words}", "run `ridges doctor`")
        self._socket, self._end = ours, end

    async def _told(self, fds: list[int]) -> tuple[int, int]:
        for last_try in (False, True):
            await self.start()
            assert self._socket is not None
            try:
                socket.send_fds(self._socket, [b"fork"], fds)
            except OSError as error:  # it was killed, or is far behind
                self.close()
                if last_try:
                    raise SandboxUnavailable(f"the fork server does not answer ({error})", "try again") from error
            else:
                break
        return await self._answer()

    async def _answer(self) -> tuple[int, int]:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[int, int]] = loop.create_future()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            loop.add_reader(self._socket, self._on_answer)
            self._reading = loop
        try:
            async with asyncio.timeout(_START_S):
                return await asyncio.shield(answer)
        except TimeoutError as error:
            self.close()
            raise SandboxUnavailable("the fork server does not answer", "try again") from error
        except asyncio.CancelledError:
            answer.add_done_callback(_unwanted)
            raise

    def _on_answer(self) -> None:
        assert self._socket is not None
        try:
            message, fds, _, _ = socket.recv_fds(self._socket, _PID.size, 1)
        except BlockingIOError:
            return
        except OSError:
            message, fds = b"", []
        if not message:
            self.close()
            return
        waiting = self._waiting.popleft()
        if not self._waiting:
            self._read_no_more()
        (pid,) = _PID.unpack(message)
        if fds:
            waiting.set_result((pid, fds[0]))
        else:
            waiting.set_exception(SandboxUnavailable(f"nothing can be forked ({os.strerror(-pid)})", "try again"))

    def _read_no_more(self) -> None:
        """Before the socket is closed: the loop would take the next one with its number for it."""
        if self._reading and self._socket:
            self._reading.remove_reader(self._socket)
        self._reading = None


class ForkServers:
    """The servers of one adapter: one for each kind of commands, and one that prepares none."""

    def __init__(self, interpreter: Interpreter, *, host_dir: Path, remedy: str) -> None:
        """Nothing is started.

        Args:
            interpreter: of the sandboxes.
            host_dir: shared by the managers of this host that run as root.
            remedy: what to do when a sandbox cannot be made.
        """
        self._interpreter, self._uids, self._remedy = interpreter, host_dir / "uids", remedy
        self._servers: dict[Kind | None, ForkServer] = {}
        self._unfit: dict[Kind, float] = {}
        """Until when no server of a kind is started, by the loop's clock."""

    @asynccontextmanager
    async def started(
        self, starting: Launch, steps: tuple[Step, ...], seccomp: bytes, kind: Kind | None
    ) -> AsyncIterator[tuple[LocalSupervisor, int, Launch]]:
        """The supervisor of a new sandbox, the host's pid of it, and what is left to write to it.

        Args:
            starting: what to start.
            steps: its mount tree.
            seccomp: its filter of system calls.
            kind: of its command, when it says that there is a script to prepare for.

        Raises:
            SandboxUnavailable: it cannot be made.
        """
        server = self._servers.get(kind)
        if server is None:
            server = self._servers[kind] = ForkServer(self._interpreter, kind)
        with host_uid(self._uids) as uid:
            order = {"uid": uid, "steps": steps, "seccomp": seccomp, "workspace": WORKSPACE}
            forked, info = await server.fork(order)
            try:
                async with looked_after(forked) as supervisor:
                    first = await supervisor.first_process(info, self._remedy)
                    yield supervisor, first, without_program(starting)
            finally:
                os.close(info)

    async def prepare(self, kind: Kind) -> bool:
        """Whether commands of this kind are prepared: each kind takes a process, so there are only a few.

        A server that does not start (something that it is to load ends it, say) costs the preparation and nothing else.
        """
        now = asyncio.get_running_loop().time()
        if kind not in self._servers and (len(self._servers) >= _MOST_SERVERS or self._unfit.get(kind, now) > now):
            return False
        server = self._servers.setdefault(kind, ForkServer(self._interpreter, kind))
        try:
            await server.start()
        except SandboxUnavailable as error:
            if self._servers.get(kind) is server:
                del self._servers[kind]
            self._unfit[kind] = now + _UNFIT_S
            log.warning("commands are not prepared for a while", modules=kind.modules, error=error.reason)
            return False
        return True

    def close(self) -> None:
        """End the servers, and with them what they have forked."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


def _as_commands_find_it(interpreter: Interpreter) -> Path:
    """``sys.executable`` of ``python3``."""
    found = interpreter.executable.with_name("python3")
    return found if found.exists() else interpreter.executable


def _pipes(order: bytes) -> tuple[list[int], list[int]]:
    """Our ends of stdin, stdout, stderr, info; theirs of the order, which is in its pipe already, and of those."""
    ordered, ordering = os.pipe()
    stdin_theirs, stdin = os.pipe()
    others = [os.pipe() for _ in range(3)]
    with os.fdopen(ordering, "wb") as pipe:
        os.set_blocking(pipe.fileno(), False)
        pipe.write(order)
    return [stdin, *(ours for ours, _ in others)], [ordered, stdin_theirs, *(theirs for _, theirs in others)]


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _unwanted(answer: "asyncio.Future[tuple[int, int]]") -> None:
    """Who asked was cancelled: what was forked for it ends."""
    if answer.exception() is None:
        _, pidfd = answer.result()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def _be_apart_or_say_why() -> None:
    """Whoever started it reads stderr, but learns nothing from an exception."""
    try:
        _be_apart()
    except OSError as error:
        os.write(2, f"it cannot be made apart from the host: {error}".encode("utf-8", "replace"))
        os._exit(1)


def _be_apart() -> None:
    """In the server before it is executed: nothing outside can be written through what its forks hold.

    It has no network either: what an installation does when it is imported is nobody's wish. Its own user namespace,
    where this process is not root: there it may mount.
    """
    uid, gid = os.geteuid(), os.getegid()
    checked(libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | (_CLONE_NEWUSER if uid else 0)))
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path("/proc/self", name).write_text(text)
    mount(None, "/", None, _MS_REC | _MS_SLAVE)
    _set_attributes(b"/", _AT_RECURSIVE, on=_MOUNT_ATTR_RDONLY, off=0)
    _set_attributes(b"/proc", 0, on=0, off=_MOUNT_ATTR_RDONLY)  # where a process says who it is in a user namespace


def _set_attributes(path: bytes, flags: int, *, on: int, off: int) -> None:
    wanted = struct.pack("=QQQQ", on, off, 0, 0)
    arguments = _MOUNT_SETATTR, _AT_FDCWD, path, flags, wanted, len(wanted)
    checked(libc.syscall(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)))


def _hand_over(process: "subprocess.Popen[bytes]", program: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # its last words say more
        process.stdin.write(program)


def _last_words(process: "subprocess.Popen[bytes]") -> str:
    """Of a server that did not come up."""
    process.kill()
    assert process.stderr is not None
    return process.stderr.read().decode("utf-8", "replace").strip()[-500:]


def _ended(process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
    control.close()
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stderr):
        if pipe and not pipe.closed:
            with contextlib.suppress(OSError):
                pipe.close()
