"""What the nodes of the double have agreed on: one log, appended to by KurrentDB's rules.

Source: KurrentDB's documentation "Optimistic concurrency and idempotence".
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_APPEND_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Proposed:
    event_id: str
    event_type: str
    content_type: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Stored(Proposed):
    stream: str
    revision: int
    position: int
    """Commit position: counts up with gaps."""


@dataclass(frozen=True)
class Expected:
    """``any``, ``no_stream``, ``stream_exists``, or the exact revision of the stream's last event."""

    kind: Literal["any", "no_stream", "stream_exists", "exact"]
    revision: int = -1


class WrongVersion(Exception):
    def __init__(self, current: int) -> None:
        super().__init__(f"the stream ends at {current}")
        self.current = current


class TooLarge(Exception):
    """The append as a whole has too many bytes."""


class Log:
    """Lives as long as the double; nodes come and go."""

    def __init__(self) -> None:
        self._events: list[Stored] = []
        self._streams: dict[str, list[Stored]] = {}
        self._recent: dict[tuple[str, str], Stored] = {}
        """(stream, id): what ``any`` knows of the past. A cache: it is empty after a restart."""
        self._grown = asyncio.Condition()

    async def append(self, stream: str, expected: Expected, proposed: Sequence[Proposed]) -> Stored:
        """The last of them. All or none; a repetition stores nothing."""
        if sum(len(event.data) for event in proposed) > MAX_APPEND_BYTES:
            raise TooLarge
        there = self._streams.get(stream, [])
        known = self._repeated(stream, there, expected, proposed)
        if known is not None:
            return known
        current = len(there) - 1
        holds = {"any": True, "no_stream": current < 0, "stream_exists": current >= 0}
        if not holds.get(expected.kind, expected.revision == current):
            raise WrongVersion(current)
        for event in proposed:
            stored = self._store(stream, event)
        async with self._grown:
            self._grown.notify_all()
        return stored

    def _repeated(
        self, stream: str, there: list[Stored], expected: Expected, proposed: Sequence[Proposed]
    ) -> Stored | None:
        current = len(there) - 1
        if expected.kind in ("any", "stream_exists"):
            found = [self._recent.get((stream, event.event_id)) for event in proposed]
            if found[0] is None:
                return None
            if None in found:
                raise WrongVersion(current)
            return found[-1]
        if expected.revision >= current:
            return None
        first = expected.revision + 1
        if [event.event_id for event in there[first : first + len(proposed)]] == [e.event_id for e in proposed]:
            return there[first + len(proposed) - 1]
        raise WrongVersion(current)

    def _store(self, stream: str, event: Proposed) -> Stored:
        there = self._streams.setdefault(stream, [])
        position = self._events[-1].position + 60 + len(self._events[-1].data) if self._events else 173
        stored = Stored(
            event_id=event.event_id,
            event_type=event.event_type,
            content_type=event.content_type,
            data=event.data,
            stream=stream,
            revision=len(there),
            position=position,
        )
        there.append(stored)
        self._events.append(stored)
        self._recent[stream, event.event_id] = stored
        return stored

    def forget_recent(self) -> None:
        self._recent.clear()

    def truncate(self, length: int) -> None:
        """As restored from a backup that is older."""
        for lost in reversed(self._events[length:]):
            self._streams[lost.stream].pop()
            self._recent.pop((lost.stream, lost.event_id), None)
        del self._events[length:]
        self._streams = {name: events for name, events in self._streams.items() if events}

    def stream(self, name: str) -> Sequence[Stored] | None:
        return self._streams.get(name)

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Stored]:
        return iter(self._events)

    def __getitem__(self, number: int) -> Stored:
        return self._events[number]

    def number_after(self, position: int) -> int:
        """Of the first event behind a commit position. LookupError: no event stands there."""
        for number in range(len(self._events) - 1, -1, -1):
            if self._events[number].position == position:
                return number + 1
        raise LookupError(position)

    async def wait_longer_than(self, length: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._events) > length)
