"""The gateway with a log that keeps nothing, to show what the durable log costs. Started by ``ridges_contender``.

No setting of the gateway offers this, and none should. Every run that a valid token names counts as started.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from ridges_contender import started_run

from ridges.chassis import logs
from ridges.chassis.blob_store import open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.ports import ANY, LastPosition, Recorded, WrongPosition
from ridges.chassis.serving import serve
from ridges.chassis.settings import load
from ridges.contracts.events import Event
from ridges.gateway.app import open_adapters, wire_gateway
from ridges.gateway.meters import Meters
from ridges.gateway.providers_config import load_providers
from ridges.gateway.settings import GatewaySettings


class ForgetfulLog:
    """The part of an event store that the gateway uses: checks positions, keeps no event."""

    def __init__(self) -> None:
        self._position = 0
        self._last: dict[tuple[str, type[Event]], int] = {}

    async def append(self, stream_id: str, events: Sequence[Event], expected: LastPosition | None = ANY) -> int:
        if expected is not None and expected.of_type is not None:
            actual = self._last.get((stream_id, expected.of_type), 0)
            if actual != expected.position:
                raise WrongPosition(stream_id, expected, actual)
        for event in events:
            self._position += 1
            if expected is not None:
                self._last[stream_id, type(event)] = self._position
        return self._position

    async def read_run(self, stream_id: str) -> list[Recorded]:
        return [Recorded(position=number, event=event) for number, event in enumerate(started_run(stream_id), 1)]

    async def subscribe(
        self, after: int | None = 0, types: Sequence[type[Event]] = (), *, own: bool = True
    ) -> AsyncIterator[Recorded]:
        await asyncio.Event().wait()
        yield Recorded(position=0, event=started_run("never")[0])

    async def last_position(self) -> int:
        return self._position

    async def ping(self) -> None: ...


async def main() -> None:
    settings = load(GatewaySettings)
    logs.configure("gateway", settings.log_format, settings.log_level)
    config = load_providers(settings.config)
    async with open_adapters(config) as adapters:
        gateway = wire_gateway(
            settings,
            config,
            adapters=adapters,
            store=ForgetfulLog(),  # type: ignore[arg-type]
            blobs=open_blob_store(settings.blobs_url),
            clock=SystemClock(),
            meters=Meters(),
            rng=random.SystemRandom(),
        )
        await serve(
            gateway.http,
            host=settings.http_host,
            port=settings.http_port,
            background=[gateway.states.follow],
            drain=gateway.pipeline.drain,
        )


if __name__ == "__main__":
    uvloop.run(main())
