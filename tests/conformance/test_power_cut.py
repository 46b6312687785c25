"""A power cut: the server's disk as it is at one moment of the load, without what the kernel still holds back.

With the server's default an acknowledgement only means that the kernel has the event; with ours that the disk has it.
The default must fail here, or the test shows nothing.
"""

import asyncio

import pytest
from conformance.event_store_suite import cancelled
from disks import copy_live, mounted_image, need_root, new_image, sh
from nats_process import NatsServer

from ridges.chassis.jetstream import open_event_store

IMAGE_MB = 256
WRITERS = 8
ACKNOWLEDGED_BEFORE_THE_CUT = 400


async def load_until_the_cut(server, cut) -> dict[str, int]:
    """Append under load; at some moment cut. What was acknowledged before the cut began: id -> position."""
    acknowledged: dict[str, int] = {}
    enough, over = asyncio.Event(), asyncio.Event()

    async def write(store, run_id: str) -> None:
        while not over.is_set():
            event = cancelled(run_id)
            acknowledged[event.id] = await store.append(run_id, [event])
            if len(acknowledged) >= ACKNOWLEDGED_BEFORE_THE_CUT:
                enough.set()

    async with open_event_store(server.url, name="test", allow_lossy=True) as store:
        writers = [asyncio.create_task(write(store, f"run-{number}")) for number in range(WRITERS)]
        async with asyncio.timeout(120):
            await asyncio.wait((asyncio.ensure_future(enough.wait()), *writers), return_when=asyncio.FIRST_COMPLETED)
        before = dict(acknowledged)
        await asyncio.to_thread(cut)
        over.set()
        await asyncio.gather(*writers)
    return before


async def acknowledged_and_found(tmp_path, sync: str | None) -> tuple[dict[str, int], dict[str, int]]:
    need_root("a power cut")
    image, copy = new_image(tmp_path / "disk.img", IMAGE_MB), tmp_path / "cut.img"
    server = NatsServer(tmp_path / "nats", sync=sync, claims="16GB")
    with mounted_image(image, tmp_path / "nats" / "store"):
        server.start()
        try:
            await server.migrate()
            sh("sync", "-f", str(tmp_path / "nats" / "store"))
            acknowledged = await load_until_the_cut(server, lambda: copy_live(image, copy))
        finally:
            server.kill9()
    with mounted_image(copy, tmp_path / "nats" / "store"):
        server.start()
        try:
            async with open_event_store(server.url, name="test", allow_lossy=True) as store:
                await asyncio.wait_for(store.ready(), 60)
                return acknowledged, {r.event.id: r.position async for r in store.read_all()}
        finally:
            server.kill9()


@pytest.mark.timeout(300)
async def test_what_our_log_acknowledged_outlives_a_power_cut(tmp_path):
    acknowledged, found = await acknowledged_and_found(tmp_path, "always")
    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_THE_CUT
    assert acknowledged.items() <= found.items()


@pytest.mark.timeout(300)
async def test_the_servers_default_would_lose_acknowledged_events(tmp_path):
    acknowledged, found = await acknowledged_and_found(tmp_path, None)
    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_THE_CUT
    assert not acknowledged.keys() <= found.keys()
