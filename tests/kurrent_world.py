"""KurrentDB (or its double), a nats-server with the mirror, and a relay, as the event store's tests need them."""

import asyncio
from contextlib import asynccontextmanager

from ridges.chassis.event_store import open_event_store
from ridges.chassis.kurrent.connection import KurrentConnection
from ridges.chassis.kurrent.epoch import declared_epoch
from ridges.chassis.migrate import declare_streams


async def declare_mirror(server, kurrentdb_url: str, **login) -> str:
    """The migrate step. The epoch."""
    kurrent = KurrentConnection(kurrentdb_url, "migrate")
    try:
        epoch = await declared_epoch(kurrent)
    finally:
        await kurrent.close()
    async with server.client(**login) as nc:
        await declare_streams(nc, kurrentdb_epoch=epoch)
    return epoch


def opened(server, kurrentdb_url: str, *, nats_url: str | None = None):
    return open_event_store(
        nats_url or server.url, name="test", event_store_url=kurrentdb_url, monitor_url=server.monitor_url
    )


class RunningRelay:
    """A relay in a life of its own: started, crashed, started again."""

    def __init__(self, server, kurrentdb_url: str, nats_url: str | None = None) -> None:
        self._server, self._url, self._nats_url = server, kurrentdb_url, nats_url
        self._life: asyncio.Task | None = None
        self.relay = None

    async def start(self) -> None:
        started = asyncio.Event()

        async def live() -> None:
            async with opened(self._server, self._url, nats_url=self._nats_url) as store:
                self.relay = store.relay
                started.set()
                await store.relay.run()

        self._life = asyncio.create_task(live())
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait((self._life, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def crash(self) -> None:
        """Wherever it is."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    async def end(self) -> BaseException:
        """Wait until it gives up; why."""
        [reason] = await asyncio.gather(self._life, return_exceptions=True)
        return reason


@asynccontextmanager
async def relaying(server, kurrentdb_url: str):
    running = RunningRelay(server, kurrentdb_url)
    await running.start()
    try:
        yield running
    finally:
        await running.crash()


async def mirror_of(server, **login) -> list[tuple[int, str, bytes]]:
    """(sequence, subject, content) of every message."""
    async with server.client(**login) as nc:
        jetstream = nc.jetstream()
        last = (await jetstream.stream_info("EVENTS")).state.last_seq
        found = []
        for sequence in range(1, last + 1):
            message = await jetstream.get_msg("EVENTS", seq=sequence, direct=True)
            found.append((message.seq, message.subject, message.data or b""))
        return found
