"""Append events to KurrentDB: exactly once, all or none, with expectations given as positions of the mirror."""

from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from kurrentdbclient import NewEvent, RecordedEvent

from ridges.chassis.identity import encoded
from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.kurrent.connection import KurrentConnection, Moved
from ridges.chassis.kurrent.known_stream import KnownStream
from ridges.chassis.kurrent.mirror import Mirror
from ridges.chassis.kurrent.mirror_writer import MAX_MIRRORED_BYTES
from ridges.chassis.kurrent.names import stream_name
from ridges.chassis.ports import NEW, EventRefused, EventStoreUnavailable, LastPosition, WrongPosition
from ridges.contracts.events import Event, type_name

REMEMBERED_STREAMS = 256
REMEMBERED_IDS = 10_000


class Appender:
    """Every append expects the end of the stream that this process knows, whatever its caller expects.

    So an append needs no read before it, KurrentDB's check for repeated ids is exact (without an expected version it
    is a cache), and when somebody else was first, what is new is read and judged before the next try.
    """

    def __init__(self, kurrent: KurrentConnection, connection: Connection, mirror: Mirror) -> None:
        self._kurrent, self._connection, self._mirror = kurrent, connection, mirror
        self._streams: OrderedDict[str, KnownStream] = OrderedDict()
        self._owners: OrderedDict[UUID, str] = OrderedDict()
        """Stream of each id that was appended here: KurrentDB itself takes an id once for every stream."""

    def known(self, stream_id: str) -> KnownStream:
        stream = self._streams.setdefault(stream_id, KnownStream(stream_id))
        self._streams.move_to_end(stream_id)
        if len(self._streams) > REMEMBERED_STREAMS:
            self._streams.popitem(last=False)
        return stream

    async def append(self, stream_id: str, events: Sequence[Event], expected: LastPosition | None) -> int:
        contents = encoded(stream_id, events)
        for event, content in zip(events, contents, strict=True):
            _refuse_unfit(stream_id, event, content)
        proposed = [
            NewEvent(id=_uuid(stream_id, event), type=type_name(event), data=content)
            for event, content in zip(events, contents, strict=True)
        ]
        self._refuse_foreign(stream_id, proposed)
        stream = self.known(stream_id)
        revision = await self._connection.persist(
            f"{stream_id}: appending {proposed[-1].type}", lambda: self._store(stream, proposed, expected)
        )
        self._own(stream_id, proposed)
        return await self._mirror.position_of(stream, revision)

    async def _store(self, stream: KnownStream, proposed: list[NewEvent], expected: LastPosition | None) -> int:
        """The revision of the last of them, once all are durable."""
        async with stream.appending:
            fresh = False
            if not stream.end and expected is not NEW:
                await self._catch_up(stream)
                fresh = True
            while missing := stream.missing(proposed):
                end = stream.end
                actual = await self._actual(stream, expected)
                if expected is None or actual == expected.position:
                    if await self._try(stream, missing):
                        break
                elif fresh:
                    raise WrongPosition(stream.stream_id, expected, actual)
                await self._catch_up(stream)
                if fresh and stream.end == end:
                    raise EventStoreUnavailable(
                        f"{stream.stream_id}: KurrentDB holds fewer than the {end} events that this process has seen "
                        "there; was it restored from a backup?"
                    )
                fresh = True
            return stream.last_revision(proposed)

    async def _try(self, stream: KnownStream, missing: list[NewEvent]) -> bool:
        end = stream.end
        try:
            await self._kurrent.append(stream_name(stream.stream_id), missing, end)
        except Moved:
            return False
        for revision, event in enumerate(missing, end):
            stream.learn(event.id, event.type, revision)
        return True

    async def _actual(self, stream: KnownStream, expected: LastPosition | None) -> int | None:
        """Where the newest event stands that the expectation looks at; 0 = there is none."""
        if expected is None:
            return None
        newest = stream.newest(type_name(expected.of_type) if expected.of_type else None)
        return 0 if newest is None else await self._mirror.position_of(stream, newest)

    async def _catch_up(self, stream: KnownStream) -> None:
        learn(stream, await self._kurrent.read(stream_name(stream.stream_id), stream.end))

    def _refuse_foreign(self, stream_id: str, proposed: list[NewEvent]) -> None:
        for event in proposed:
            owner = self._owners.get(event.id, stream_id)
            if owner != stream_id:
                raise EventRefused(
                    f"{stream_id}: event id {event.id} is taken by another event, of stream {owner}; ids must be unique"
                )

    def _own(self, stream_id: str, proposed: list[NewEvent]) -> None:
        for event in proposed:
            self._owners[event.id] = stream_id
        while len(self._owners) > REMEMBERED_IDS:
            self._owners.popitem(last=False)


def learn(stream: KnownStream, events: Sequence[RecordedEvent]) -> None:
    """Take in what was read from any known revision on."""
    for event in events:
        stream.learn(event.id, event.type, event.stream_position)


def _refuse_unfit(stream_id: str, event: Event, content: bytes) -> None:
    """What KurrentDB would take and the mirror would not must never get there."""
    if len(content) > MAX_MIRRORED_BYTES:
        raise EventRefused(
            f"{stream_id}: {type_name(event)} has {len(content)} bytes, at most {MAX_MIRRORED_BYTES} fit; "
            "put large contents into a blob"
        )


def _uuid(stream_id: str, event: Event) -> UUID:
    try:
        return UUID(event.id)
    except ValueError:
        raise EventRefused(f"{stream_id}: event id {event.id!r} is no UUID; KurrentDB takes no other ids") from None
