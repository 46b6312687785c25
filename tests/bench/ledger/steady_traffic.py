"""Appends to the log at a steady rate, from a process of its own.

steady_traffic.py NATS_URL EVENTS RATE TIMES [lean]

Starts when it reads a line on stdin. The file TIMES gets the moment (``time.perf_counter``, one clock for the whole
machine) at which each event was handed to the server, as doubles in the order of their positions.
"""

import asyncio
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from nats.aio.client import Client
from sample_log import without_defaults

from ridges.chassis.clock import SystemClock
from ridges.contracts import events as ev
from ridges.contracts.codec import encode


async def publish(url: str, events: int, rate: int, write: Callable[[ev.Event], bytes]) -> array:
    clock, client, times = SystemClock(), Client(), array("d")
    await client.connect(url)
    await asyncio.to_thread(sys.stdin.readline)
    start = time.perf_counter()
    for number in range(events):
        event = ev.InferenceReserved(
            id=clock.new_id(), run_id=f"live-{number % 16}", time=clock.now(), call_id=str(number), model="m",
            cost_nano_usd=1, tokens=1,
        )  # fmt: skip
        times.append(time.perf_counter())
        await client.publish(f"ev.{event.run_id}.InferenceReserved", write(event))
        ahead = start + (number + 1) / rate - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
    await client.flush()
    await client.close()
    return times


if __name__ == "__main__":
    _, nats_url, count, per_second, file, *lean = sys.argv
    sent = publish(nats_url, int(count), int(per_second), without_defaults if lean else encode)
    Path(file).write_bytes(asyncio.run(sent).tobytes())
