"""Runs passes: in a child process, so that live traffic keeps its core, or in a thread over any event store."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import structlog

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.chassis.ports import Clock, EventStore, NamedBlobStore
from ridges.contracts.codec import UndecodableEvent
from ridges.contracts.views import PassProgress, PassResult
from ridges.ledger.archive import ArchiveDamaged
from ridges.ledger.errors import PassRunning
from ridges.ledger.passes.log_source import raw_of
from ridges.ledger.passes.mending import mend_segments
from ridges.ledger.passes.rebuild import rebuild
from ridges.ledger.passes.reporting import Line, PassFailed, PassName
from ridges.ledger.passes.sealing import rebuild_from_archive, seal_log, sealed_segments
from ridges.ledger.passes.verify import verify

log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 16 * 1024 * 1024
Message = PassProgress | PassResult
Source = Literal["log", "archive"]


class Passes(Protocol):
    """Each pass says how far it is, then how it ended; it never raises for what it found."""

    def rebuild(self, tables: Path, source: Source = "log") -> AsyncGenerator[Message, None]:
        """Fold the whole log into a fresh file, or its archive and what came after it."""

    def archive(self, *, prove: bool = True) -> AsyncGenerator[Message, None]:
        """Prove what is sealed, mend it where the log can; seal what is not sealed yet."""

    def restore(self) -> AsyncGenerator[Message, None]:
        """Bring archived events back into a log that has lost them."""

    def verify(self, *, blobs: bool) -> AsyncGenerator[Message, None]:
        """Check the whole log, and the blobs it names."""


class ChildPasses:
    """Each pass is a process with this process's settings; it dies with this one or with its reader."""

    def rebuild(self, tables: Path, source: Source = "log") -> AsyncGenerator[Message, None]:
        return _child("rebuild", "--tables", str(tables), "--source", source)

    def archive(self, *, prove: bool = True) -> AsyncGenerator[Message, None]:
        return _child("archive", *([] if prove else ["--no-proof"]))

    def restore(self) -> AsyncGenerator[Message, None]:
        return _child("restore")

    def verify(self, *, blobs: bool) -> AsyncGenerator[Message, None]:
        return _child("verify", *([] if blobs else ["--no-blobs"]))


class Archiver:
    """Seals one at a time: two would write different segments in the same place."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._running = False

    async def archive(self, *, prove: bool = True) -> AsyncGenerator[Message, None]:
        """See ``Passes.archive``.

        Raises:
            PassRunning: one is sealing already.

        """
        self.refuse_second()
        self._running = True
        try:
            async with aclosing(self._passes.archive(prove=prove)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._running = False

    def refuse_second(self) -> None:
        """Raises PassRunning while one runs."""
        if self._running:
            raise PassRunning("archive")

    async def run(self, every_s: float) -> None:
        """Seal again and again until cancelled, after one proof; what fails is said and tried again the next time."""
        proved = False
        while True:
            await asyncio.sleep(every_s)
            try:
                async with aclosing(self.archive(prove=not proved)) as messages:
                    async for message in messages:
                        if isinstance(message, PassResult):
                            proved = proved or message.ok
                            (log.info if message.ok else log.error)("archive", summary=message.summary)
            except PassRunning:
                log.debug("somebody archives already")


class ThreadPasses:
    """For event stores that no other process can read."""

    def __init__(self, store: EventStore, blobs: NamedBlobStore, clock: Clock, grace_s: float) -> None:
        self._store, self._blobs, self._clock, self._grace_s = store, blobs, clock, grace_s

    async def rebuild(self, tables: Path, source: Source = "log") -> AsyncGenerator[Message, None]:
        def from_log(log: list[RawEvent]) -> PassResult:
            return rebuild([log] if log else [], tables, total=len(log), report=_ignore)

        def from_archive(log: list[RawEvent]) -> PassResult:
            sealed = sealed_segments(self._blobs)
            tail = log[sealed[-1].last if sealed else 0 :]
            return rebuild_from_archive(
                sealed, [tail] if tail else [], tables, store=self._blobs, total=len(log), report=_ignore
            )

        yield await self._result("rebuild", from_archive if source == "archive" else from_log)

    async def archive(self, *, prove: bool = True) -> AsyncGenerator[Message, None]:
        def work(log: list[RawEvent]) -> PassResult:
            sealed = sealed_segments(self._blobs)

            def part(after: int, until: int) -> Iterator[list[RawEvent]]:
                yield log[after:until]

            found = mend_segments(sealed, part, store=self._blobs, report=_ignore) if prove else []
            rest = log[max(sealed[-1].last - 1, 0) if sealed else 0 :]
            return seal_log(
                [rest] if rest else [],
                sealed,
                store=self._blobs,
                total=len(rest),
                now=self._clock.now(),
                report=_ignore,
                findings=found,
            )

        yield await self._result("archive", work)

    async def restore(self) -> AsyncGenerator[Message, None]:
        summary = "this event store cannot be restored from an archive"
        yield PassResult(what="restore", ok=False, summary=summary, events=0, seconds=0)

    async def verify(self, *, blobs: bool) -> AsyncGenerator[Message, None]:
        store = self._blobs if blobs else None
        yield await self._result(
            "verify", lambda log: verify([log], total=len(log), grace_s=self._grace_s, blobs=store, report=_ignore)
        )

    async def _result(self, what: PassName, work: Callable[[list[RawEvent]], PassResult]) -> PassResult:
        try:
            log = [raw_of(recorded) async for recorded in self._store.read_all()]
            return await asyncio.to_thread(work, log)
        except (PassFailed, ArchiveDamaged, UndecodableEvent) as error:
            return PassResult(what=what, ok=False, summary=str(error), events=0, seconds=0)


def _ignore(_: PassProgress) -> None:
    """A pass in a thread is short."""


async def _child(what: PassName, *arguments: str) -> AsyncGenerator[Message, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ridges.ledger.passes",
        what,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_LINE_BYTES,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    told = asyncio.create_task(process.stderr.read())
    ended = False
    try:
        async for line in process.stdout:
            message = msgspec.json.decode(line, type=Line)
            if message.progress is not None:
                yield message.progress
            if message.result is not None:
                ended = True
                yield message.result
        if not ended:
            code, trouble = await process.wait(), (await told).decode(errors="replace")[-2_000:]
            summary = f"the process of the pass ended with {code} and without a result: {trouble}"
            yield PassResult(what=what, ok=False, summary=summary, events=0, seconds=0)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
        told.cancel()
