"""What this process knows of one KurrentDB stream: everything up to some end."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from kurrentdbclient import NewEvent

from ridges.chassis.ports import EventRefused


class KnownStream:
    """The ids and types of the stream's first ``end`` events, and where the first few of them stand in the mirror.

    An append that expects the stream to end there is right or rejected, so it needs no read before.
    """

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.appending = asyncio.Lock()
        self._revisions: dict[UUID, int] = {}
        self._types: list[str] = []
        self._newest: dict[str, int] = {}
        self._positions: list[int] = []

    @property
    def end(self) -> int:
        """How many events are known. The next one has this revision."""
        return len(self._types)

    def learn(self, event_id: UUID, event_type: str, revision: int) -> None:
        """The event of this revision. What is known already is ignored."""
        if revision < self.end:
            return
        assert revision == self.end, "events are learnt in order"
        self._revisions[event_id] = revision
        self._types.append(event_type)
        self._newest[event_type] = revision

    def last_revision(self, events: Sequence[NewEvent]) -> int:
        """Of those events, all of which are known."""
        return max(self._revisions[event.id] for event in events)

    def newest(self, event_type: str | None) -> int | None:
        """The revision of the last event, or of the last of one type."""
        if event_type is None:
            return self.end - 1 if self.end else None
        return self._newest.get(event_type)

    def missing(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        """Those that are not stored.

        Raises:
            EventRefused: an id belongs to an event of another type.
        """
        absent = []
        for event in events:
            revision = self._revisions.get(event.id)
            if revision is None:
                absent.append(event)
            elif self._types[revision] != event.type:
                raise EventRefused(
                    f"{self.stream_id}: event id {event.id} is taken by another event ({self._types[revision]}, "
                    f"number {revision} of the stream); ids must be unique"
                )
        return absent

    @property
    def mirrored(self) -> int:
        """How many of the first events have a known position."""
        return len(self._positions)

    @property
    def last_known_position(self) -> int:
        """0 = none."""
        return self._positions[-1] if self._positions else 0

    def place(self, revision: int, position: int) -> bool:
        """Note where the mirror has the event; False when one before it is missing there."""
        if revision == self.mirrored:
            self._positions.append(position)
        return revision < self.mirrored and self._positions[revision] == position

    def position(self, revision: int) -> int:
        return self._positions[revision]
