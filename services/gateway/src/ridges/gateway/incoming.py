"""The streamed answer of one attempt: held until it is chosen, then sent on piece by piece as it comes.

Nobody is woken for a piece: it goes from the provider's connection to the caller's in one callback (ADR 35).
"""

import asyncio
from collections.abc import Callable

from ridges.gateway.ports import Outlet, ProviderStream
from ridges.gateway.sse import BrokenStream, SseRelay


class Incoming:
    """Begins to take the answer at once. ``close`` it."""

    def __init__(self, stream: ProviderStream, relay: SseRelay, on_first: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        """Done with the first events, and when there will be none."""
        self.over: asyncio.Future[None] = loop.create_future()
        """Done when all has come. Raises BrokenStream and what ``ProviderStream.flow`` does."""
        self._stream, self._relay, self._on_first = stream, relay, on_first
        self._held: list[bytes] = []
        self._out: Outlet | None = None
        self._flowing = asyncio.ensure_future(stream.flow(self._take))
        self._flowing.add_done_callback(self._flowed)

    @property
    def holds(self) -> bool:
        """Events have come and wait for ``send_on``."""
        return bool(self._held)

    async def send_on(self, out: Outlet) -> None:
        """Chosen: give the caller what has come, and from now on what comes."""
        await out.begin()
        self._out = out
        if self._held:
            self._give(b"".join(self._held))
            self._held.clear()

    async def close(self) -> None:
        """Take no more."""
        if not self._flowing.done():
            self._flowing.cancel()
            await asyncio.wait({self._flowing})
        del self._flowing  # what cancelled it holds its frames, and those this

    def _take(self, piece: bytes) -> None:
        if self.over.done():
            return
        if events := self._relay.feed(piece):
            self._give(events)
        if self._relay.done:
            self._stream.enough()
            self._end(None)

    def _give(self, events: bytes) -> None:
        if self._out is not None:
            if not self._out.write(events):
                self._stream.pause()
                self._out.when_read(self._stream.resume)
            return
        self._held.append(events)
        if not self.begun.done():
            self._on_first()
            self.begun.set_result(None)

    def _flowed(self, flowing: "asyncio.Task[None]") -> None:
        if not flowing.cancelled():
            self._end(flowing.exception())

    def _end(self, error: BaseException | None) -> None:
        if self.over.done():
            return
        try:
            if error is None and (events := self._relay.end()):
                self._give(events)
        except BrokenStream as broken:
            error = broken
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)
            self.over.exception()  # retrieved: a lost race asks nobody
        if not self.begun.done():
            self.begun.set_result(None)
