"""Append events to the stream EVENTS: exactly once, all or none, with optimistic concurrency.

The server checks the expected position before it looks for a duplicate id, and forgets ids after its duplicate
window. So a rejected append is only a lost race if our ids are not in the log yet; and ids that may be older than the
window are looked up before, unless they could stand only where the append expects nothing.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from uuid import uuid4

import msgspec
from nats.js.errors import APIError, ServerError, ServiceUnavailableError

from ridges.chassis.identity import NAME, encoded
from ridges.chassis.jetstream.connection import Connection, read_reply
from ridges.chassis.jetstream.grouping import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, Group
from ridges.chassis.jetstream.reading import stored_messages
from ridges.chassis.jetstream.streams import DUPLICATE_WINDOW_S
from ridges.chassis.ports import EventRefused, LastPosition, WrongPosition
from ridges.contracts.events import Event, type_name
from ridges.contracts.subjects import EVENT_ID_HEADER, EVENTS_STREAM, event_subject, run_filter

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECTS = "Nats-Expected-Last-Subject-Sequence-Subject"
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
DUPLICATE_IN_BATCH = 10201
BATCH_AGAIN = frozenset({10174, 10176, 10210})
"""The server lost the start of the batch (it restarted), or too many batches are in flight: begin again."""

REMEMBERED_STREAMS = 10_000
UNANSWERED = "; is its disk full? nats-server logs it, and must be restarted once there is room"
"""Source: nats-server 2.15 leaves what it cannot write without an answer, and refuses all that follows."""
REMEMBERED_OWN = 10_000


_ABSENT = object()


class _Message(msgspec.Struct, frozen=True):
    subject: str
    event_id: str
    content: bytes


class Appender:
    """Appends over one connection and remembers how far each stream reaches."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._group = Group(connection)
        self._reach: OrderedDict[str, int] = OrderedDict()
        self._own: dict[bytes, None] | None = None

    def skip_own(self) -> Callable[[bytes], bool]:
        """From now on: whether an event id is of an event that was appended here. True once for each id."""
        own = self._own = {}
        return lambda event_id: own.pop(event_id, _ABSENT) is None

    def reach(self, stream_id: str) -> int:
        """A position that certainly stands in the stream; 0 = none known. A read that ends before it is stale."""
        return self._reach.get(stream_id, 0)

    async def append(self, stream_id: str, events: Sequence[Event], expected: LastPosition | None) -> int:
        messages = [
            _Message(event_subject(stream_id, type_name(event)), event.id, content)
            for event, content in zip(events, encoded(stream_id, events), strict=True)
        ]
        if self._own is not None and len(messages) == 1:
            self._own[messages[0].event_id.encode()] = None
            if len(self._own) > REMEMBERED_OWN:
                del self._own[next(iter(self._own))]
        attempt = _Attempt(self._connection, self._group, stream_id, messages, expected)
        try:
            what = f"{stream_id}: appending {type_name(events[-1])}"
            position = await self._connection.persist(what, attempt.once, hint=UNANSWERED)
        except BaseException as error:
            if self._own is not None:
                self._own.pop(messages[0].event_id.encode(), None)
            if isinstance(error, WrongPosition):
                self._remember(stream_id, error.actual or 0)
            raise
        self._remember(stream_id, position)
        return position

    def _remember(self, stream_id: str, position: int) -> None:
        self._reach[stream_id] = max(position, self.reach(stream_id))
        self._reach.move_to_end(stream_id)
        if len(self._reach) > REMEMBERED_STREAMS:
            self._reach.popitem(last=False)


class _Attempt:
    """One append, over all its tries."""

    def __init__(
        self,
        connection: Connection,
        group: Group,
        stream_id: str,
        messages: list[_Message],
        expected: LastPosition | None,
    ) -> None:
        self._connection, self._group, self._stream_id = connection, group, stream_id
        self._messages, self._expected = messages, expected
        self._unsure = not (self._first_of_its_kind or all(_surely_in_window(message.event_id) for message in messages))

    async def once(self) -> int:
        missing = self._messages
        if self._unsure:
            stored, missing = await self._look_up()
            if not missing:
                return stored
        self._unsure = True
        try:
            position = await (self._publish(missing[0]) if len(missing) == 1 else self._publish_batch(missing))
        except APIError as error:
            return await self._explain(error)
        return max(position, 0 if len(missing) == len(self._messages) else await self._last_of_all())

    async def _publish(self, message: _Message) -> int:
        expectation = self._expectation()
        headers = {EVENT_ID_HEADER: message.event_id, **expectation}
        if expectation.get(EXPECTED_SUBJECTS, message.subject) == message.subject and NAME.fullmatch(message.event_id):
            acknowledged = await self._group.append(
                message.subject, headers, message.content, conditional=bool(expectation)
            )
            position, duplicate = acknowledged.seq, acknowledged.duplicate
        else:
            told = read_reply(await self._connection.request(message.subject, message.content, headers=headers))
            position, duplicate = int(told["seq"]), bool(told.get("duplicate"))
        if duplicate:
            await self._refuse_foreign(position, message)
        return position

    async def _publish_batch(self, messages: list[_Message]) -> int:
        """All messages in one atomic batch. A new batch id each time: what a lost try left behind never mixes in."""
        with ExitStack() as watching:
            subjects = {message.subject for message in messages}
            failures = [watching.enter_context(self._connection.watched(subject)) for subject in subjects]
            try:
                return await self._send_batch(uuid4().hex, messages)
            except (APIError, TimeoutError):
                for failed in failures:  # a part of the batch was denied: the server says so apart from the batch
                    if failed.done():
                        failed.result()
                raise

    async def _send_batch(self, batch_id: str, messages: list[_Message]) -> int:
        first, *between, last = messages
        start = await self._connection.request(
            first.subject, first.content, headers=_batch_headers(batch_id, 1, first) | self._expectation()
        )
        if start.data:
            read_reply(start)
        for number, message in enumerate(between, 2):
            headers = _batch_headers(batch_id, number, message)
            await self._connection.client.publish(message.subject, message.content, headers=headers)
        headers = _batch_headers(batch_id, len(messages), last) | {BATCH_COMMIT: "1"}
        return int(read_reply(await self._connection.request(last.subject, last.content, headers=headers))["seq"])

    @property
    def _first_of_its_kind(self) -> bool:
        """Whether the server refuses the append when any of the events is stored: none of their subjects may exist."""
        if self._expected is None or self._expected.position:
            return False
        of_type = self._expected.of_type
        subjects = None if of_type is None else event_subject(self._stream_id, type_name(of_type))
        return subjects is None or all(message.subject == subjects for message in self._messages)

    def _expectation(self) -> dict[str, str]:
        if self._expected is None:
            return {}
        stream_id, of_type = self._stream_id, self._expected.of_type
        subjects = run_filter(stream_id) if of_type is None else event_subject(stream_id, type_name(of_type))
        return {EXPECTED: str(self._expected.position), EXPECTED_SUBJECTS: subjects}

    async def _explain(self, error: APIError) -> int:
        """The position when the events are stored all the same; else raises what the rejection means."""
        if isinstance(error, ServiceUnavailableError | ServerError) or error.err_code in BATCH_AGAIN:
            raise ServiceUnavailableError(code=503, err_code=error.err_code, description=error.description) from error
        if error.err_code in WRONG_LAST_SEQUENCE or error.err_code == DUPLICATE_IN_BATCH:
            stored, missing = await self._look_up()
            if not missing:
                return stored
            if error.err_code == DUPLICATE_IN_BATCH:  # some are stored: the next try brings the others
                raise ServiceUnavailableError(code=503, description="a part of the events is stored already")
            raise WrongPosition(self._stream_id, self._expected or LastPosition(0), _told_position(error)) from error
        await self._connection.check_here()
        raise EventRefused(f"{self._stream_id}: {error.description} ({error.err_code})") from error

    async def _look_up(self) -> tuple[int, list[_Message]]:
        """The last position of those that are stored, and those that are not."""
        positions = await self._positions()
        missing = [message for message in self._messages if message.event_id not in positions]
        return max(positions.values(), default=0), missing

    async def _last_of_all(self) -> int:
        return max((await self._positions()).values(), default=0)

    async def _positions(self) -> dict[str, int]:
        wanted = {message.event_id for message in self._messages}
        found: dict[str, int] = {}
        for subject in {message.subject for message in self._messages}:
            async for stored in stored_messages(self._connection, EVENTS_STREAM, subject):
                if stored.event_id in wanted:
                    found.setdefault(stored.event_id, stored.position)
        return found

    async def _refuse_foreign(self, position: int, message: _Message) -> None:
        """The server compares ids only: the duplicate may be an event of another run or type."""
        async for stored in stored_messages(self._connection, EVENTS_STREAM, message.subject, position):
            if stored.position == position:
                return
            break
        raise EventRefused(
            f"{self._stream_id}: event id {message.event_id} is taken by another event at position {position}; "
            "ids must be unique"
        )


def _batch_headers(batch_id: str, number: int, message: _Message) -> dict[str, str]:
    return {EVENT_ID_HEADER: message.event_id, BATCH_ID: batch_id, BATCH_SEQUENCE: str(number)}


def _told_position(error: APIError) -> int | None:
    """Source: nats-server's text "wrong last sequence: 17"."""
    number = re.search(r"(\d+)$", error.description or "")
    return int(number[1]) if number else None


def _surely_in_window(event_id: str) -> bool:
    """Whether the server would still know the id: a UUIDv7 that was made less than half a duplicate window ago."""
    try:
        made_at_ms = int(event_id[:8] + event_id[9:13], 16)
    except ValueError:
        return False
    return event_id[14:15] == "7" and 0 <= time.time() - made_at_ms / 1000 + 1 < DUPLICATE_WINDOW_S / 2
