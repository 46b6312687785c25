"""Where the events of KurrentDB stand in the stream EVENTS: their positions in the log."""

import asyncio
import time

from ridges.chassis.jetstream.connection import PATIENCE_S, Connection
from ridges.chassis.jetstream.reading import Stored, stored_messages
from ridges.chassis.kurrent.known_stream import KnownStream
from ridges.chassis.kurrent.names import SOURCE_REVISION
from ridges.chassis.ports import EventStoreUnavailable, LogMismatch
from ridges.contracts.subjects import EVENTS_STREAM, run_filter

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.1


class Mirror:
    """Reads positions; never writes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def position_of(self, stream: KnownStream, revision: int) -> int:
        """The position of the stream's event of that revision; waits for the relay.

        Raises:
            EventStoreUnavailable: the relay has not mirrored it in time.
            LogMismatch: somebody else has written to the mirror.
        """
        deadline = time.monotonic() + PATIENCE_S
        pause_s = FIRST_PAUSE_S
        while stream.mirrored <= revision:
            await self._look(stream)
            if stream.mirrored > revision:
                break
            if time.monotonic() > deadline:
                raise EventStoreUnavailable(
                    f"{stream.stream_id}: KurrentDB holds the event, but the relay has not mirrored it for "
                    f"{PATIENCE_S:g} s: is the ledger running? Retry with the same event ids"
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
        return stream.position(revision)

    async def _look(self, stream: KnownStream) -> None:
        first = stream.last_known_position + 1
        async for stored in stored_messages(self._connection, EVENTS_STREAM, run_filter(stream.stream_id), first):
            if not stream.place(_revision(stored), stored.position):
                raise LogMismatch(
                    f"the mirror's message {stored.position} ({stored.subject}) stands where the relay would not have "
                    "put it: delete the stream EVENTS, run the migrate step and let the relay fill it anew"
                )


def _revision(stored: Stored) -> int:
    return int(stored.headers.get(SOURCE_REVISION, "-1"))
