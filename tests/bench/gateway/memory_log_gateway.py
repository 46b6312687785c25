"""The gateway with its event log in memory, to show what the durable log costs. Started by ``ridges_contender``.

Every run that a valid token names is started here at its first call, for nobody else can append to this log.
"""

import asyncio
import random

import uvloop
from ridges_contender import started_run

from ridges.chassis import logs
from ridges.chassis.blob_store import open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.memory_store import MemoryEventStore
from ridges.chassis.serving import serve
from ridges.chassis.settings import load
from ridges.gateway.app import open_adapters, wire_gateway
from ridges.gateway.meters import Meters
from ridges.gateway.providers_config import load_providers
from ridges.gateway.settings import GatewaySettings


class SelfStartingRuns(MemoryEventStore):
    """Knows every run."""

    async def read_run(self, stream_id):
        found = await super().read_run(stream_id)
        if not found:
            await self.append(stream_id, started_run(stream_id))
            found = await super().read_run(stream_id)
        return found


async def main() -> None:
    settings = load(GatewaySettings)
    logs.configure("gateway", settings.log_format, settings.log_level)
    clock, config = SystemClock(), load_providers(settings.config)
    async with open_adapters(config) as adapters:
        gateway = wire_gateway(
            settings,
            config,
            adapters=adapters,
            store=SelfStartingRuns(clock),
            blobs=open_blob_store(settings.blobs_url),
            clock=clock,
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
    uvloop.install()
    asyncio.run(main())
