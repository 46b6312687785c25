"""A program that takes one message of a queue, says so, and holds it until it is killed."""

import asyncio
import sys

import msgspec

from ridges.chassis import logs
from ridges.chassis.event_store import open_event_store
from ridges.chassis.ports import DeliveryPolicy
from ridges.contracts.events import EVENT_TYPES


async def main(url: str, queue: str, types: str, policy: str, event_store_url: str | None = None) -> None:
    async def hold(_recorded) -> None:
        print("taken", flush=True)
        await asyncio.sleep(3_600)

    async with open_event_store(url, name="dying", event_store_url=event_store_url, allow_lossy=True) as store:
        chosen = [EVENT_TYPES[name] for name in types.split(",")]
        async with store.consume(queue, chosen, hold, msgspec.json.decode(policy, type=DeliveryPolicy)):
            await asyncio.sleep(3_600)


logs.configure("dying")
asyncio.run(main(*sys.argv[1:]))
