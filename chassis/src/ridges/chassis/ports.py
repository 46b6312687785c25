"""The ports: where two adapters exist. Adapters: ``jetstream``, ``memory_store``; ``blob_store``; ``clock``."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

import msgspec

from ridges.contracts.blobs import BlobRef
from ridges.contracts.codec import decode
from ridges.contracts.events import AnyEvent, Event
from ridges.contracts.parked import Parked as Parked  # noqa: PLC0414 - read by users of the port


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place in the log."""

    position: int
    """Counts up over the whole log, starts at 1."""
    event: AnyEvent


class LastPosition(msgspec.Struct, frozen=True):
    """Expect that the stream's newest event (or its newest of one type) stands at this position; 0 = there is none."""

    position: int
    of_type: type[Event] | None = None


class Undecoded(msgspec.Struct, frozen=True, gc=False):
    """An event as it stands in the log."""

    position: int
    subject: bytes
    """``ev.<stream id>.<event type>``"""
    content: bytes

    @property
    def stream_id(self) -> str:
        return self.subject.split(b".", 2)[1].decode()

    def recorded(self) -> Recorded:
        """Raises UndecodableEvent."""
        return Recorded(position=self.position, event=decode(self.content))


ANY = None
"""No expectation: append whatever else is there."""
NEW = LastPosition(0)
"""The stream must not exist yet."""


class WrongPosition(Exception):
    """Optimistic concurrency failed: somebody appended first. Read the stream again, decide again."""

    def __init__(self, stream_id: str, expected: LastPosition, actual: int | None) -> None:
        super().__init__(f"{stream_id}: expected the last position {expected.position}, found {actual}")
        self.stream_id, self.expected, self.actual = stream_id, expected, actual


class EventStoreUnavailable(Exception):
    """The log did not answer in time. Nothing is known about the append; retry with the same event ids."""


class EventRefused(Exception):
    """The log refuses the event for good: no permission, too large, no such stream. Retrying does not help."""


class LogMismatch(Exception):
    """The log is not the one this service is configured for, or its server does not keep what it acknowledges."""


class GiveBack(Exception):
    """Raised by a handler that does not get to its message: who asks next gets it, at once. This is no failure."""


class LeftToOthers(Exception):
    """Raised by a handler whose message is in other hands by now: it is not settled here, for that would settle it for
    them too. Whoever works on it settles it; when they are lost, it comes again after the acknowledgement time.
    """


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a queue treats its messages."""

    concurrency: int = 1
    """Handlers at once, at most; one message is asked for at a time, and only when a handler is free."""
    ack_wait_s: float = 30.0
    """A consumer silent for so long loses its message to another; running handlers send heartbeats by themselves."""
    max_deliver: int = 5
    """Deliveries after which a message is parked."""
    retry_delays_s: tuple[float, ...] = (1.0, 5.0, 15.0, 60.0)
    """Delay after the n-th failed delivery; the last one repeats."""


DEFAULT_POLICY = DeliveryPolicy()

Handler = Callable[[Recorded], Awaitable[None]]


class Queue(Protocol):
    """A running durable consumer."""

    def stop_fetching(self) -> None:
        """Take no further message; handlers in progress go on."""

    async def drain(self, timeout_s: float) -> None:
        """Stop fetching, wait for handlers; after the timeout cancel them, their messages are redelivered at once."""


class EventStore(Protocol):
    """The append-only log: the only way a fact comes into being."""

    async def append(self, stream_id: str, events: Sequence[Event], expected: LastPosition | None = ANY) -> int:
        """The position of the last of the events, once all of them are durable. All of them or none.

        Appending events whose ids are stored already is a success and returns where they stand (also when the first
        acknowledgement was lost and ``expected`` is stale by now). Retries by itself for a few seconds.

        Raises:
            WrongPosition: somebody else appended first.
            EventStoreUnavailable: no answer in time; nothing is known; retry with the same ids.
            EventRefused: never will be accepted.
        """

    async def read_run(self, stream_id: str) -> list[Recorded]:
        """All events of one stream in order; empty when there is none.

        Raises:
            EventStoreUnavailable: the log did not answer.
            UndecodableEvent: an event this release does not know.
        """

    def read_all(self, after: int = 0, types: Sequence[type[Event]] = ()) -> AsyncIterator[Recorded]:
        """Everything that stands after the position right now, in order; then it ends. No types = all types."""

    def subscribe(
        self,
        after: int | None = 0,
        types: Sequence[type[Event]] = (),
        *,
        own: bool = True,
    ) -> AsyncIterator[Recorded]:
        """Like ``read_all``, but waits for more for ever; survives reconnects without a gap or a double.

        ``after=None`` starts with what is appended from now on: the subscription stands once ``anext`` was first
        awaited. To miss nothing, read ``last_position()`` before and pass it as ``after``.
        ``own=False`` may leave out events that this very store has appended or is appending: for one subscriber that
        takes in by itself what it appends. Some of them may come all the same. When ``append`` raises, the event may
        have been left out already: read again; what is stored later comes.

        Raises:
            UndecodableEvent: fail-stop; the reader decides.
        """

    def follow(self, after: int = 0) -> AsyncIterator[list[Undecoded]]:
        """Like ``subscribe`` to all types, for one that takes in the whole log: undecoded, in groups, much cheaper.

        In busy times an event may wait for some hundredths of a second, so that others come with it.
        """

    async def last_position(self) -> int:
        """The position of the newest event; 0 for an empty log."""

    def consume(
        self, queue: str, types: Sequence[type[Event]], handler: Handler, policy: DeliveryPolicy = DEFAULT_POLICY
    ) -> AbstractAsyncContextManager[Queue]:
        """Share the events of some types among all consumers of the same queue name, from the log's beginning.

        At least once: the handler returns = done; it raises = delivered again after a delay, at last parked.
        Undecodable messages are parked at once. Order is kept only with ``concurrency=1`` and without failures.
        """

    async def parked(self) -> list[Parked]:
        """What queues gave up on, newest last, at most 1,000."""

    async def ping(self) -> None:
        """Returns when the log answers.

        Raises:
            EventStoreUnavailable: it does not; the message says what to start.
        """


class BlobMissing(Exception):
    """No blob of that digest, or its content does not match its digest."""


class BlobStore(Protocol):
    """Content-addressed bytes."""

    async def put(self, content: bytes, media_type: str) -> BlobRef:
        """The reference; durable when this returns. Storing the same content again costs nothing."""

    async def put_soon(self, content: bytes, media_type: str) -> BlobRef:
        """The reference at once; the content is stored within a second, many together, and lost when we crash first.

        For what is an aid and no part of any promise. Waits while too much is on its way; failures are logged.
        """

    async def flush(self) -> None:
        """Returns when all that ``put_soon`` took is durable."""

    async def get(self, digest: str) -> bytes:
        """The content, verified against its digest.

        Raises:
            BlobMissing: not there or damaged.
        """

    async def ping(self) -> None:
        """Returns when the store can be written. Raises OSError when not."""


class NamedBlobStore(BlobStore, Protocol):
    """A blob store that also keeps a few contents under names, for what must be found when all else is lost."""

    async def put_named(self, name: str, content: bytes) -> None:
        """Durable when this returns; replaces what had the name. Lower-case names, folders with ``/``."""

    async def get_named(self, name: str) -> bytes | None:
        """The content; None when there is none of that name."""

    async def names(self, folder: str) -> list[str]:
        """The names in the folder, sorted."""


class Clock(Protocol):
    """Time and ids come in through here."""

    def now(self) -> datetime:
        """UTC."""

    def monotonic(self) -> float:
        """Seconds; only differences count."""

    def new_id(self) -> str:
        """A UUIDv7 as text."""
