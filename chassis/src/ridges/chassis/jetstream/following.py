"""Follow the whole stream EVENTS at the least cost: undecoded, in groups, over a connection of its own.

Each wake-up costs more than the event it brings. So in busy times the socket is left alone for a while: the kernel
gathers what the server sends, and all of it is read and taken apart at once. A lone event is taken as it comes.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, closing

import structlog

from ridges.chassis.jetstream.client import parsed_headers
from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.jetstream.feed import HEARTBEAT_S, MAX_BYTES, RESTART_PAUSE_S, Outcome, outcome_of
from ridges.chassis.jetstream.streams import NS_PER_S
from ridges.chassis.jetstream.wire import SILENCE_S, Lost, Wire, WireConsumer
from ridges.chassis.ports import EventStoreUnavailable, Undecoded

log = structlog.get_logger(__name__)

GATHER_S = 0.03
"""How long events may wait for others in busy times."""
BUSY_RATE = 100.0
"""Events per second from which on they are gathered."""
LOOK_BACK_S = 0.25
BATCH = 4_000
PULL_EXPIRES_S = 30
RECEIVE_BYTES = 1 << 16
"""At once; there may be more when so many came."""

_Begun = tuple[Wire, WireConsumer]


class Following:
    """Everything after a position; survives reconnections without a gap or a double."""

    def __init__(self, connection: Connection, after: int) -> None:
        self._connection, self._position = connection, after

    async def groups(self) -> AsyncGenerator[list[Undecoded], None]:
        """For ever. Raises EventRefused when this user may not read the log, LogMismatch as ``Connection.ready``."""
        while True:
            await self._connection.ready()
            try:
                wire, consumer = await self._begun()
            except (OSError, EventStoreUnavailable) as error:
                log.debug("cannot follow the log yet", error=repr(error))
                await asyncio.sleep(RESTART_PAUSE_S)
                continue
            with closing(wire):
                try:
                    async for group in _Socket(wire, consumer).groups():
                        self._position = group[-1].position
                        yield group
                except OSError as error:
                    log.debug("following the log begins anew", position=self._position, error=repr(error))

    async def _begun(self) -> _Begun:
        """A consumer, over a connection to the server that the others are connected to."""
        url = self._connection.client.connected_url
        if url is None:
            raise EventStoreUnavailable(self._connection.trouble)
        wire = Wire(self._connection.place, url.geturl())
        beginning = asyncio.ensure_future(asyncio.to_thread(self._begin, wire))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_close)
            raise

    def _begin(self, wire: Wire) -> _Begun:
        with ExitStack() as stack:
            stack.enter_context(wire)
            if wire.epoch() != (self._connection.epoch or ""):
                raise Lost("the log was replaced")  # which the other connection finds out as well
            consumer = wire.consume("follow", self._position + 1)
            wire.socket.setblocking(False)
            stack.pop_all()
        return wire, consumer


def _close(beginning: "asyncio.Future[_Begun]") -> None:
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result()[0].close()


class _Socket:
    """Takes the messages of one consumer from its socket, when it is time."""

    def __init__(self, wire: Wire, consumer: WireConsumer) -> None:
        self._wire, self._consumer = wire, consumer
        self._readable = asyncio.Event()
        self._left = 0
        """How many messages the last pull may still bring."""

    async def groups(self) -> AsyncGenerator[list[Undecoded], None]:
        """All that has arrived, whenever that is looked at. Raises OSError when anything looks wrong."""
        consumer, pace, rested = self._consumer, _Pace(), True
        try:
            self._pull()
            while True:
                received = self._receive()
                if received is not None:
                    found, told = consumer.arrived(received)
                    pace.count(len(found))
                    rested = False
                    if found:
                        self._left -= len(found)
                        yield [Undecoded(position, subject, content) for position, subject, _, content in found]
                    if told or self._left <= 0:
                        self._heed(told)
                if received is not None and self._may_have_more(received):
                    await asyncio.sleep(0)
                elif pace.is_busy and not rested:
                    rested = True
                    await asyncio.sleep(GATHER_S)
                elif received is None:
                    await self._something()
        finally:
            consumer.end()

    def _may_have_more(self, received: bytes) -> bool:
        """TLS gives one record at a time."""
        return len(received) == RECEIVE_BYTES or isinstance(self._wire.socket, ssl.SSLSocket)

    def _receive(self) -> bytes | None:
        """None when there is nothing."""
        try:
            return self._wire.received(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None

    async def _something(self) -> None:
        """Wait until there is something to receive. Raises TimeoutError, an OSError, when that takes too long."""
        loop, readable = asyncio.get_running_loop(), self._readable
        readable.clear()
        descriptor = self._wire.socket.fileno()
        loop.add_reader(descriptor, readable.set)
        try:
            async with asyncio.timeout(SILENCE_S):
                await readable.wait()
        finally:
            loop.remove_reader(descriptor)

    def _heed(self, told: list[bytes]) -> None:
        """Pull again when the pull has ended. Raises Lost when the consumer is not well."""
        again = self._left <= 0
        for block in told:
            headers = parsed_headers(block)
            outcome = outcome_of(headers.get("Status", ""), headers.get("Description", ""))
            if outcome is Outcome.RESTART:
                raise Lost(f"the consumer ended: {block[:80]!r}")
            again = again or outcome is Outcome.PULL_AGAIN
        if again:
            self._pull()

    def _pull(self) -> None:
        self._left = BATCH
        patience = {"expires": PULL_EXPIRES_S * NS_PER_S, "idle_heartbeat": HEARTBEAT_S * NS_PER_S}
        self._consumer.pull({"batch": BATCH, "max_bytes": MAX_BYTES, **patience})


class _Pace:
    """Whether events come so fast that gathering them pays."""

    def __init__(self) -> None:
        self._since, self._count = time.monotonic(), 0
        self.is_busy = False

    def count(self, events: int) -> None:
        """So many have come now."""
        self._count += events
        now = time.monotonic()
        if now - self._since >= LOOK_BACK_S:
            self.is_busy = self._count >= BUSY_RATE * (now - self._since)
            self._since, self._count = now, 0
