"""A supervisor as a process of this host: start it, talk to it, end it. For adapters without an engine."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import IO, Protocol

import msgspec

from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.ports import SandboxSpec
from ridges.sandbox_manager.staging import root_may_not
from ridges.sandbox_manager.wire import CANCEL, OUT_OF_MEMORY, Launch, ReplyReader

_PIECE = 1 << 18
_STDERR_KEPT = 4000
_START_S = 30.0
_UNPACK_S = 60.0
_COLLECT_S = 100.0
"""Longer than the supervisor's own limits: only a broken one gets here."""


class Process(Protocol):
    """What was started on this host, whoever its parent is."""

    pid: int
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def kill(self) -> None:
        """It and all it started; nothing when it has ended."""

    def pidfd(self) -> int | None:
        """For the caller to close; readable once it has ended. None: it has."""

    def reap(self) -> None:
        """Wait for its end, which is there or near."""


class OwnChild:
    """A child of this process, and the process group it leads."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self.pid, self.stdin, self.stdout, self.stderr = process.pid, process.stdin, process.stdout, process.stderr
        self._process = process

    def kill(self) -> None:
        """See the protocol. With its group: a child that has not yet asked to die with it would stay behind."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def pidfd(self) -> int | None:
        """See the protocol."""
        return os.pidfd_open(self.pid) if self._process.returncode is None else None

    def reap(self) -> None:
        """See the protocol."""
        self._process.wait()


class LocalSupervisor:
    """A started supervisor process. Its three pipes never block the event loop."""

    def __init__(self, process: Process, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.pid = process.pid
        self._process, self._stdout, self._stderr = process, stdout, stderr
        self._complaints = b""

    @property
    def complaints(self) -> str:
        """The end of its stderr; complete once it has ended."""
        return self._complaints.decode("utf-8", "replace").strip()

    def load(self, launch: Launch) -> Launch:
        """Hand over its program, as far as the pipe takes it at once; what is left to write.

        So it loads while it is put into its control group, and knows nothing of its task yet.
        """
        program, *others = launch.stdin
        try:
            taken = os.write(self._process.stdin.fileno(), program)
        except (BlockingIOError, BrokenPipeError):
            taken = 0
        return msgspec.structs.replace(launch, stdin=(program[taken:], *others))

    async def converse(
        self,
        spec: SandboxSpec,
        launch: Launch,
        *,
        cancelled: asyncio.Event,
        full: asyncio.Event,
        started: asyncio.Event,
        collecting: Callable[[], None] = lambda: None,
    ) -> ReplyReader:
        """Hand over the spec and wait for the result. Returns with ``complete`` unset when the process ended without
        one.

        Args:
            spec: what was launched.
            launch: what to write.
            cancelled: ends the command.
            full: ends the command as out of memory.
            started: set once the command is about to start.
            collecting: called once the command and all it started are dead.

        Raises:
            SandboxFailed: no result in time, or no credible one.
        """
        reply = ReplyReader(spec, launch.nonce)
        writing = asyncio.ensure_future(self._write(launch.stdin))
        listening = asyncio.ensure_future(self._listen())
        orders = ((cancelled, CANCEL), (full, OUT_OF_MEMORY))
        obeying = [asyncio.ensure_future(self._order(writing, event, order)) for event, order in orders]
        try:
            async with asyncio.timeout(_UNPACK_S + spec.timeout_s + _COLLECT_S):
                while not reply.complete and (chunk := await self._stdout.read(_PIECE)):
                    before = reply.collecting
                    reply.feed(chunk)
                    if reply.started:
                        started.set()
                    if reply.collecting and not before:
                        collecting()
        except TimeoutError as error:
            raise SandboxFailed(spec.run_id, "its supervisor handed over no result in time") from error
        else:
            if not reply.complete:
                await asyncio.wait({listening}, timeout=1)
        finally:
            together = (writing, listening, *obeying)
            for each in together:
                each.cancel()
            await asyncio.gather(*together, return_exceptions=True)
        return reply

    async def _write(self, pieces: Sequence[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                await _write_all(self._process.stdin.fileno(), piece)

    async def _order(self, writing: "asyncio.Task[None]", event: asyncio.Event, order: bytes) -> None:
        await asyncio.gather(event.wait(), asyncio.shield(writing))
        await self._write((order,))

    async def _listen(self) -> None:
        while chunk := await self._stderr.read(_PIECE):
            self._complaints = (self._complaints + chunk)[-_STDERR_KEPT:]

    async def last_words(self) -> str:
        """The end of its stderr, when it has failed before the conversation."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listen(), timeout=2)
        return self.complaints

    async def first_process(self, info: int, remedy: str) -> int:
        """The host's pid of the process that is PID 1 inside, as ``bwrap --info-fd`` tells it.

        Args:
            info: where it is told.
            remedy: what to do when nothing is told.

        Raises:
            SandboxUnavailable: it failed before it had one.
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
            words = await self.last_words()
            if words.startswith("nsenter:"):
                raise root_may_not() from error
            raise SandboxUnavailable(words or "it ended without a word when it was started", remedy) from error
        finally:
            loop.remove_reader(info)

    async def ended(self) -> None:
        """Wait for its exit."""
        pidfd = self._process.pidfd()
        if pidfd is not None:
            await end_of(pidfd)
        self._process.reap()


async def end_of(pidfd: int) -> None:
    """Returns when its process has ended. Closes it."""
    try:
        await readable(pidfd)
    finally:
        os.close(pidfd)


async def readable(fd: int) -> None:
    """Returns when something waits there: bytes, a visitor of a listening socket, the end of a pidfd's process."""
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(fd, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(fd)


@asynccontextmanager
async def supervised(
    argv: Sequence[str],
    *,
    env: dict[str, str],
    pass_fds: Sequence[int] = (),
    in_child: Callable[[], None] | None = None,
) -> AsyncIterator[LocalSupervisor]:
    """A child process that is dead and reaped when the context ends, whatever ends it.

    ``pass_fds`` are taken over: they are closed here once the process has them, or could not be started. Enter it in
    the thread that lives as long as the manager: parent-death signals follow the thread.

    Raises:
        SandboxUnavailable: it cannot be executed.
    """
    try:
        process = subprocess.Popen(  # noqa: ASYNC220  # asyncio's own cannot drop privileges on every loop
            argv,
            env=env,
            cwd="/",
            pass_fds=pass_fds,
            preexec_fn=in_child,  # noqa: PLW1509  # mounts and the uid have no other place
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise SandboxUnavailable(f"{argv[0]} cannot be started ({error})", "run `ridges doctor`") from error
    except subprocess.SubprocessError as error:
        raise root_may_not() from error
    finally:
        for fd in pass_fds:
            os.close(fd)
    async with looked_after(OwnChild(process)) as supervisor:
        yield supervisor


@asynccontextmanager
async def looked_after(process: Process) -> AsyncIterator[LocalSupervisor]:
    """The process is dead and reaped when the context ends, whatever ends it, and its pipes are closed."""
    transports: list[asyncio.ReadTransport] = []
    unread = [process.stdout, process.stderr]
    supervisor = None
    try:
        os.set_blocking(process.stdin.fileno(), False)
        readers = []
        while unread:
            reader = asyncio.StreamReader(limit=_PIECE)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(_same(protocol), unread.pop(0))
            transports.append(transport)
            readers.append(reader)
        supervisor = LocalSupervisor(process, *readers)
        yield supervisor
    finally:
        process.kill()
        process.stdin.close()
        for transport in transports:
            transport.close()
        for pipe in unread:
            pipe.close()
        await _reap(process, supervisor)


def _same(protocol: asyncio.StreamReaderProtocol) -> Callable[[], asyncio.StreamReaderProtocol]:
    return lambda: protocol


async def _reap(process: Process, supervisor: LocalSupervisor | None) -> None:
    """SIGKILL was sent: it ends soon. A cancellation in between must not leave it unreaped."""
    if supervisor is None:
        process.reap()
        return
    ending = asyncio.ensure_future(supervisor.ended())
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await ending
        raise


async def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    loop = asyncio.get_running_loop()
    while view:
        try:
            view = view[os.write(fd, view[:_PIECE]) :]
        except BlockingIOError:
            writable = asyncio.Event()
            loop.add_writer(fd, writable.set)
            try:
                await writable.wait()
            finally:
                loop.remove_writer(fd)
