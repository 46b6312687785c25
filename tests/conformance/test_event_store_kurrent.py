"""The KurrentDB adapter under the event store's suite: over the contract double, and over a real KurrentDB."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from conformance.event_store_suite import EventStoreSuite
from conformance.queue_suite import QueueSuite
from kurrent_double.cluster import KurrentDouble
from kurrent_server import KurrentServer, kurrentdb_image  # noqa: F401  # a fixture
from kurrent_world import RunningRelay, declare_mirror, opened
from kurrentdbclient import AsyncKurrentDBClient, NewEvent, StreamState
from nats_process import NatsServer

from ridges.contracts.events import type_name


class KurrentLog:
    """``kurrentdb`` has ``url``, ``start`` and ``stop``."""

    def __init__(self, server, kurrentdb, relay, stack) -> None:
        self._server, self._kurrentdb, self._relay, self._stack = server, kurrentdb, relay, stack

    async def open(self):
        return await self._stack.enter_async_context(opened(self._server, self._kurrentdb.url))

    async def inject(self, subject, content):
        _, stream_id, event_type = subject.split(".")
        client = AsyncKurrentDBClient(self._kurrentdb.url)
        event = NewEvent(type=event_type, data=content, content_type="application/octet-stream")
        await client.append_to_stream(f"run-{stream_id}", current_version=StreamState.ANY, events=event)
        await client.close()

    async def interrupt(self, outage_s=0.3):
        """Everything: the nats-server is killed, KurrentDB stops, the relay crashes."""
        await asyncio.to_thread(self._server.kill9)
        await self._kurrentdb.stop()
        await self._relay.crash()
        await asyncio.sleep(outage_s)
        await self._kurrentdb.start()
        await asyncio.to_thread(self._server.start)
        await self._relay.start()

    async def abandon(self, queue, types, policy):
        program = Path(__file__).with_name("dying_consumer.py")
        names = ",".join(map(type_name, types))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            program,
            self._server.url,
            queue,
            names,
            msgspec.json.encode(policy).decode(),
            self._kurrentdb.url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            assert (await asyncio.wait_for(process.stdout.readline(), 30)).strip() == b"taken"
        finally:
            process.kill()
            await process.communicate()


async def log_over(kurrentdb, folder):
    """One log, gone after the test."""
    server = NatsServer(folder).start()
    try:
        await declare_mirror(server, kurrentdb.url)
        relay = RunningRelay(server, kurrentdb.url)
        await relay.start()
        async with AsyncExitStack() as stack:
            yield KurrentLog(server, kurrentdb, relay, stack)
        await relay.crash()
    finally:
        server.kill9()


class TestOverTheDouble(EventStoreSuite, QueueSuite):
    @pytest.fixture
    async def log(self, tmp_path):
        async with KurrentDouble() as kurrentdb:
            await kurrentdb.put("$stats-127.0.0.1:2113", "$statsCollected")
            await kurrentdb.put("orders-1", "OrderPlaced")
            async for log in log_over(kurrentdb, tmp_path):
                yield log


@pytest.mark.registry
@pytest.mark.timeout(300)
class TestOverKurrentDB(EventStoreSuite, QueueSuite):
    @pytest.fixture
    async def log(self, kurrentdb_image, tmp_path):  # noqa: F811
        async with KurrentServer() as kurrentdb:
            async for log in log_over(kurrentdb, tmp_path):
                yield log
