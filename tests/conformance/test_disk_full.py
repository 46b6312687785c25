"""The log's disk is full: said clearly, nothing acknowledged is lost, and it heals."""

import asyncio

import msgspec
import pytest
from conformance.event_store_suite import cancelled
from disks import grow, need_root, small_disk_at
from nats_process import NatsServer

from ridges.chassis.jetstream import open_event_store
from ridges.chassis.ports import EventStoreUnavailable

DISK_MB, LARGER_MB = 24, 64
LARGE = "x" * 200_000
CLAIM = "16GB"
"""The server believes to have more than its disk holds, as when something else fills the disk."""


def opened(server):
    return open_event_store(server.url, name="test", monitor_url=server.monitor_url)


async def append_until_refused(store) -> tuple[dict[str, int], str]:
    """(position by id of what was acknowledged, what the refusal said)."""
    acknowledged = {}
    for _ in range(400):
        event = msgspec.structs.replace(cancelled("a"), reason=LARGE)
        try:
            acknowledged[event.id] = await store.append("a", [event])
        except EventStoreUnavailable as error:
            return acknowledged, str(error)
    raise AssertionError(f"the disk took {len(acknowledged)} large events")


async def positions(store) -> dict[str, int]:
    return {recorded.event.id: recorded.position async for recorded in store.read_all()}


@pytest.fixture
def server_on_a_small_disk(tmp_path):
    need_root("a full disk")
    with small_disk_at(tmp_path / "nats" / "store", DISK_MB) as disk:
        server = NatsServer(tmp_path / "nats", claims=CLAIM).start()
        server.migrate_now()
        try:
            yield server, disk
        finally:
            server.kill9()


@pytest.mark.timeout(180)
async def test_a_full_disk_is_named_loses_nothing_and_heals(server_on_a_small_disk):
    server, disk = server_on_a_small_disk
    async with opened(server) as store:
        acknowledged, told = await append_until_refused(store)
        assert len(acknowledged) > 50
        for word in ("no space left on device", "make room", "restart nats-server"):
            assert word in told
        with pytest.raises(EventStoreUnavailable, match="no space left on device"):
            await store.ping()
        assert acknowledged.items() <= (await positions(store)).items()

        await asyncio.to_thread(server.restart)
        await store.ready()
        assert acknowledged.items() <= (await positions(store)).items()

        grow(disk, LARGER_MB)
        await asyncio.to_thread(server.restart)
        await store.ready()
        late = cancelled("a")
        assert await store.append("a", [late]) > max(acknowledged.values())
        await store.ping()
        assert (acknowledged | {late.id: await store.append("a", [late])}).items() <= (await positions(store)).items()


@pytest.mark.timeout(180)
async def test_a_server_that_may_store_no_more_is_named_and_takes_on_with_more(tmp_path):
    server = NatsServer(tmp_path, claims=CLAIM).start()
    try:
        await server.migrate()
        server.claim("6MB")
        await asyncio.to_thread(server.restart)
        async with opened(server) as store:
            acknowledged, told = await append_until_refused(store)
            assert "max_file_store" in told
            with pytest.raises(EventStoreUnavailable, match="max_file_store"):
                await store.ping()
            server.claim(CLAIM)
            await asyncio.to_thread(server.restart)
            await store.ready()
            await store.append("a", [cancelled("a")])
            await store.ping()
            assert acknowledged.items() <= (await positions(store)).items()
    finally:
        server.kill9()
