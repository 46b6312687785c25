"""A log in KurrentDB that moves away, or that another one moves to."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar
from uuid import UUID, uuid4

from kurrentdbclient import NewEvent, RecordedEvent, StreamState

from ridges.chassis.identity import NAME
from ridges.chassis.jetstream import fence
from ridges.chassis.jetstream.streams import EPOCH, LOG_OF_RECORD, RECORDED_IN_KURRENTDB
from ridges.chassis.kurrent.connection import KurrentConnection, Moved
from ridges.chassis.kurrent.mirror_writer import MAX_MIRRORED_BYTES
from ridges.chassis.kurrent.names import LOG_STREAM, stream_id_of, stream_name
from ridges.chassis.moving.jetstream import JetStreamSource
from ridges.chassis.moving.ports import CannotMove, Course, GivenUp, Half, LogEvent
from ridges.chassis.ports import EventRefused, EventStoreUnavailable, LogMismatch

PATIENCE_S = 30.0
RETRY_PAUSE_S = 0.3
CHUNK = 1_000
Result = TypeVar("Result")


class KurrentLog:
    """All events of ours in KurrentDB, in order, and what is said about the log."""

    def __init__(self, connection: KurrentConnection) -> None:
        self.connection = connection
        self.address = f"kurrentdb://{connection.address}"
        self._read, self._commit = 0, -1
        """So many events were read in one go, up to this commit position: the next reader begins there."""

    async def patiently(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """The result of a call that may be repeated."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await call()
            except EventStoreUnavailable as error:
                if time.monotonic() > give_up:
                    raise CannotMove(f"{error}; when it is, run the same command: it goes on") from error
            except (EventRefused, LogMismatch) as error:
                raise CannotMove(str(error)) from error
            await asyncio.sleep(RETRY_PAUSE_S)

    async def metadata(self) -> tuple[dict[str, str], int | StreamState]:
        return await self.patiently(lambda: self.connection.versioned_metadata(LOG_STREAM))

    async def declare(self, metadata: dict[str, str], version: int | StreamState) -> None:
        """In place of this version of the metadata, and of no other."""
        try:
            await self.patiently(lambda: self.connection.replace_metadata(LOG_STREAM, metadata, version))
        except Moved as error:
            found, _ = await self.metadata()
            if found != metadata:  # else it was us, and the answer was lost
                raise CannotMove(
                    f"somebody else changes the log at {self.address}: it says {found.get(LOG_OF_RECORD)!r} now"
                ) from error

    async def events(self, after: int, until: int | None) -> AsyncGenerator[Sequence[LogEvent], None]:
        """Up to a position; None: up to what is there when the reader arrives. Ends earlier where there are no more."""
        read, commit = (self._read, self._commit) if self._read == after else (0, -1)
        give_up = time.monotonic() + PATIENCE_S
        while until is None or read < until:
            try:
                async with AsyncExitStack() as stack:
                    following = await stack.enter_async_context(
                        self.connection.following(None if commit < 0 else commit)
                    )
                    async with aclosing(_chunks(following, read, until)) as chunks:
                        async for chunk, commit in chunks:
                            read += len(chunk)
                            self._read, self._commit = read, commit
                            if read > after:
                                yield [event for event in chunk if event.position > after]
                            give_up = time.monotonic() + PATIENCE_S  # what the reader does with a chunk takes its time
                return
            except EventStoreUnavailable as error:
                if time.monotonic() > give_up:
                    raise CannotMove(f"{error}; when it is, run the same command: it goes on") from error
                await asyncio.sleep(RETRY_PAUSE_S)
            except EventRefused as error:
                raise CannotMove(str(error)) from error


async def _chunks(
    following: AsyncIterator[RecordedEvent], read: int, until: int | None
) -> AsyncGenerator[tuple[list[LogEvent], int], None]:
    """At most 1,000 of our events a chunk, with the commit position of the last; ends where they end."""
    chunk: list[LogEvent] = []
    commit = -1
    async for recorded in following:
        if recorded.is_caught_up:
            break
        stream_id = stream_id_of(recorded.stream_name)
        if stream_id is None:
            continue
        read, commit = read + 1, recorded.commit_position
        chunk.append(
            LogEvent(
                position=read,
                stream_id=stream_id,
                type=recorded.type,
                event_id=str(recorded.id),
                content=recorded.data,
            )
        )
        if len(chunk) == CHUNK or read == until:
            yield chunk, commit
            chunk = []
            if read == until:
                return
    if chunk:
        yield chunk, commit


class KurrentSource:
    """KurrentDB as the old store. An event is acknowledged once it is in the mirror: closing that closes the log."""

    def __init__(self, log: KurrentLog, mirror: JetStreamSource) -> None:
        self._log, self._mirror = log, mirror
        self.address = log.address

    async def course(self) -> Course:
        course = await self._mirror.course()
        metadata, _ = await self._log.metadata()
        if metadata.get(EPOCH) != course.epoch:
            raise CannotMove(
                f"the stream EVENTS at {self._mirror.address} mirrors another log (epoch {course.epoch}) than "
                f"{self.address} holds (epoch {metadata.get(EPOCH)}); mend RIDGES_NATS_URL or RIDGES_EVENT_STORE_URL"
            )
        return course

    async def end(self) -> int:
        return await self._mirror.end()

    async def events(self, after: int, until: int) -> AsyncGenerator[Sequence[LogEvent], None]:
        read = after
        async for chunk in self._log.events(after, until):
            read += len(chunk)
            for event in chunk:
                if not (NAME.fullmatch(event.type)):
                    raise CannotMove(
                        f"event {event.event_id} of the stream run-{event.stream_id} has the type {event.type!r}, "
                        "which only KurrentDB takes: it was not appended by Ridges"
                    )
            yield chunk
        if read < until:
            raise CannotMove(
                f"{self.address} holds {read:,} events, its mirror {until:,}: was KurrentDB restored from a backup?"
            )

    async def close(self, migration: str, moved_to: str, next_epoch: str) -> None:
        await self._mirror.close(migration, moved_to, next_epoch)

    async def depart(self, next_epoch: str) -> None:
        metadata, version = await self._log.metadata()
        course = await self._mirror.course()
        gone = {
            LOG_OF_RECORD: fence.MOVED,
            fence.MOVED_TO: course.moved_to or "",
            fence.NEXT_EPOCH: next_epoch,
            fence.MIGRATION: course.migration or "",
        }
        await self._log.declare(metadata | gone, version)
        await self._mirror.depart(next_epoch)

    async def reopen(self) -> None:
        await self._mirror.reopen()


class KurrentTarget:
    """KurrentDB that becomes the log of record. Its mirror is filled by the relay, afterwards."""

    def __init__(self, log: KurrentLog) -> None:
        self._log = log
        self.address = log.address
        self._ends: dict[str, int] = {}
        """How many events each stream has."""
        self._count = 0

    async def begin(self, course: Course, next_epoch: str) -> Half:
        metadata, version = await self._log.metadata()
        ours = (metadata.get(fence.FROM_EPOCH), metadata.get(EPOCH)) == (course.epoch, next_epoch)
        await self._count_all()
        if not ours or metadata[LOG_OF_RECORD] == fence.ABANDONED:
            self._refuse_foreign(metadata, course, ours=ours)
            metadata = {
                LOG_OF_RECORD: fence.ARRIVING,
                EPOCH: next_epoch,
                fence.FROM_EPOCH: course.epoch,
                fence.MIGRATION: str(uuid4()),
            }
            await self._log.declare(metadata, version)
        return Half(
            migration=metadata[fence.MIGRATION],
            count=self._count,
            accepted=metadata[LOG_OF_RECORD] == RECORDED_IN_KURRENTDB,
        )

    async def _count_all(self) -> None:
        self._ends, self._count = {}, 0
        async with aclosing(self._log.events(0, None)) as chunks:
            async for chunk in chunks:
                for event in chunk:
                    self._ends[event.stream_id] = self._ends.get(event.stream_id, 0) + 1
                self._count += len(chunk)

    def _refuse_foreign(self, metadata: dict[str, str], course: Course, *, ours: bool) -> None:
        if metadata.get(EPOCH) == course.epoch:
            raise CannotMove(f"{self.address} is the log itself (epoch {course.epoch}); --to names another store")
        record = metadata.get(LOG_OF_RECORD, RECORDED_IN_KURRENTDB)
        if not ours and (self._count or record != RECORDED_IN_KURRENTDB):
            raise CannotMove(
                f"the target {self.address} is not empty: it holds {self._count:,} events of another log "
                f"(log_of_record = {record!r}, epoch {metadata.get(EPOCH)}). Name an empty KurrentDB"
            )

    async def write(self, after: int, events: Sequence[LogEvent]) -> None:
        if after != self._count:
            raise CannotMove(f"somebody else writes to {self.address}: it holds {self._count} events, not {after}")
        at = 0
        while at < len(events):
            together = _of_one_stream(events, at)
            stream_id, proposed = events[at].stream_id, [_proposed(event, self.address) for event in together]
            end = self._ends.get(stream_id, 0)
            try:
                await self._log.patiently(
                    lambda: self._log.connection.append(stream_name(stream_id), proposed, end)  # noqa: B023
                )
            except Moved as error:
                raise CannotMove(
                    f"somebody else writes to {self.address}: the stream of {stream_id} does not end at {end} any "
                    f"more. When no other `{fence.COMMAND}` runs, run the same command: it goes on"
                ) from error
            self._ends[stream_id] = end + len(together)
            self._count += len(together)
            at += len(together)

    def events(self, after: int, until: int) -> AsyncGenerator[Sequence[LogEvent], None]:
        return self._log.events(after, until)

    async def check_wanted(self, migration: str) -> None:
        metadata, _ = await self._log.metadata()
        self._refuse_given_up(metadata, migration)

    def _refuse_given_up(self, metadata: dict[str, str], migration: str) -> None:
        of_this_move = metadata.get(fence.MIGRATION) == migration
        if not of_this_move or metadata.get(LOG_OF_RECORD) not in (fence.ARRIVING, RECORDED_IN_KURRENTDB):
            raise GivenUp(f"the half at {self.address} was given up meanwhile; run the same command again")

    async def accept(self, migration: str) -> None:
        metadata, version = await self._log.metadata()
        self._refuse_given_up(metadata, migration)
        await self._log.declare(metadata | {LOG_OF_RECORD: RECORDED_IN_KURRENTDB}, version)

    async def give_up(self, course: Course) -> None:
        """Its events stay; whoever copies still cannot accept them, a later move goes on with them."""
        metadata, version = await self._log.metadata()
        if metadata.get(fence.FROM_EPOCH) != course.epoch:
            return
        if metadata.get(LOG_OF_RECORD) == RECORDED_IN_KURRENTDB:
            raise CannotMove(
                f"the log is at {self.address} since epoch {metadata.get(EPOCH)}, services may write there: run "
                f"`{fence.COMMAND}` once more without --abort, it marks the old log as moved"
            )
        await self._log.declare(metadata | {LOG_OF_RECORD: fence.ABANDONED}, version)


def _of_one_stream(events: Sequence[LogEvent], at: int) -> Sequence[LogEvent]:
    """Events that stand together in the log and in their stream: one append keeps the order of both."""
    size, end = 0, at
    while end < len(events) and events[end].stream_id == events[at].stream_id:
        size += len(events[end].content)
        if size > MAX_MIRRORED_BYTES and end > at:
            break
        end += 1
    return events[at:end]


def _proposed(event: LogEvent, address: str) -> NewEvent:
    try:
        event_id = UUID(event.event_id)
    except ValueError:
        event_id = None
    if event_id is None or str(event_id) != event.event_id:
        raise CannotMove(
            f"the event at position {event.position} has the id {event.event_id!r}, which is no UUID: {address} "
            "takes no other ids"
        )
    if len(event.content) > MAX_MIRRORED_BYTES:
        raise CannotMove(
            f"the event at position {event.position} has {len(event.content)} bytes, at most {MAX_MIRRORED_BYTES} fit "
            f"with {address}"
        )
    return NewEvent(id=event_id, type=event.type, data=event.content)
