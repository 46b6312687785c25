"""What the old and the new store of a log must offer while it moves."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol

import msgspec


class LogEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as every store keeps it."""

    position: int
    stream_id: str
    type: str
    event_id: str
    content: bytes


class CannotMove(Exception):
    """The move stops here; the message says why and what to do. Nothing that was acknowledged is lost."""


class GivenUp(CannotMove):
    """Somebody gave this very move up: nobody can accept it any more."""


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """How far the old store is."""

    epoch: str
    phase: Literal["here", "moving", "moved"]
    migration: str | None = None
    """Which move it is; none while it is ``here``."""
    moved_to: str | None = None


class Half(msgspec.Struct, frozen=True, kw_only=True):
    """How far the new store is."""

    migration: str
    count: int
    """Events that it holds."""
    accepted: bool
    """It is the log of record."""


class Source(Protocol):
    """The old store. Every call may raise CannotMove."""

    address: str
    """Without credentials."""

    async def course(self) -> Course: ...

    async def end(self) -> int:
        """The position of the newest event that was acknowledged or may still be; of a closed log the last one."""

    def events(self, after: int, until: int) -> AsyncGenerator[Sequence[LogEvent], None]:
        """In order, in chunks."""

    async def close(self, migration: str, moved_to: str, next_epoch: str) -> None:
        """Take no more events: when this returns, what is not in the log never was and never will be acknowledged."""

    async def depart(self, next_epoch: str) -> None:
        """The other store is the log of record now: say so to all who still come here."""

    async def reopen(self) -> None:
        """Take events again."""


class Target(Protocol):
    """The new store. Every call may raise CannotMove."""

    address: str

    async def begin(self, course: Course, next_epoch: str) -> Half:
        """Declare it as the new log of that one, or go on with what was begun."""

    async def write(self, after: int, events: Sequence[LogEvent]) -> None:
        """Durable, right behind the first ``after`` events, when this returns."""

    def events(self, after: int, until: int) -> AsyncGenerator[Sequence[LogEvent], None]: ...

    async def check_wanted(self, migration: str) -> None:
        """Raises GivenUp when the move was."""

    async def accept(self, migration: str) -> None:
        """It is the log of record from now on.

        Raises:
            GivenUp: the move was, before.
        """

    async def give_up(self, course: Course) -> None:
        """Nobody can accept it any more, also not a copy that still runs.

        Raises:
            CannotMove: it was accepted already.
        """


class Chain:
    """SHA-256 over id, type, run and payload of every event, in order."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, event: LogEvent) -> None:
        self.count += 1
        self._hash.update(msgspec.msgpack.encode((event.event_id, event.type, event.stream_id, event.content)))

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()
