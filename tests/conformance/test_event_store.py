"""The event store's two adapters under one suite, with a real nats-server for the real one."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from conformance.event_store_suite import EventStoreSuite
from conformance.queue_suite import QueueSuite

from ridges.chassis.clock import SystemClock
from ridges.chassis.jetstream import open_event_store
from ridges.chassis.memory_store import MemoryEventStore
from ridges.contracts.events import type_name


class MemoryLog:
    def __init__(self) -> None:
        self._store = MemoryEventStore(SystemClock())

    async def open(self):
        return self._store

    async def inject(self, subject, content):
        await self._store.inject(subject, content)

    async def interrupt(self, outage_s=0.3):
        """Memory does not go away."""

    async def abandon(self, queue, types, policy):
        await self._store.abandon(queue, types, policy)


class JetStreamLog:
    def __init__(self, server, stack) -> None:
        self._server, self._stack = server, stack

    async def open(self):
        opening = open_event_store(self._server.url, name="test", monitor_url=self._server.monitor_url)
        return await self._stack.enter_async_context(opening)

    async def inject(self, subject, content):
        async with self._server.client() as nc:
            await nc.jetstream().publish(subject, content)

    async def interrupt(self, outage_s=0.3):
        await asyncio.to_thread(self._server.kill9)
        await asyncio.sleep(outage_s)
        await asyncio.to_thread(self._server.start)

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
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            assert (await asyncio.wait_for(process.stdout.readline(), 30)).strip() == b"taken"
        finally:
            process.kill()
            await process.communicate()


class TestMemoryEventStore(EventStoreSuite, QueueSuite):
    @pytest.fixture
    def log(self):
        return MemoryLog()


class TestJetStreamEventStore(EventStoreSuite, QueueSuite):
    @pytest.fixture
    async def log(self, nats_server):
        async with AsyncExitStack() as stack:
            yield JetStreamLog(nats_server, stack)
