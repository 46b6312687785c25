"""What waits to be stored is bounded, and a store that fails holds up nobody."""

import asyncio

from ridges.chassis.writing_behind import WritingBehind


class SlowStore:
    def __init__(self):
        self.stored: list[bytes] = []
        self.batches = 0
        self.open = asyncio.Event()

    async def write(self, waiting):
        await self.open.wait()
        self.batches += 1
        self.stored += [content for _, content, _ in waiting]


async def test_callers_wait_while_too_much_is_on_its_way():
    store = SlowStore()
    behind = WritingBehind(store.write, most_bytes=100)
    await behind.add("a", b"x" * 60, "text/plain")
    await behind.add("b", b"y" * 40, "text/plain")
    third = asyncio.create_task(behind.add("c", b"z", "text/plain"))
    await asyncio.sleep(0.2)
    assert not third.done()
    store.open.set()
    await asyncio.wait_for(third, 10)
    await behind.flush()
    assert store.stored == [b"x" * 60, b"y" * 40, b"z"]


async def test_one_content_larger_than_all_room_passes():
    store = SlowStore()
    store.open.set()
    behind = WritingBehind(store.write, most_bytes=100)
    await asyncio.wait_for(behind.add("a", b"x" * 1_000, "text/plain"), 10)
    await behind.flush()
    assert store.stored == [b"x" * 1_000]


async def test_contents_are_stored_many_together():
    store = SlowStore()
    store.open.set()
    behind = WritingBehind(store.write)
    for number in range(90):
        await behind.add(str(number), b"x", "text/plain")
    await behind.flush()
    assert (len(store.stored), store.batches) == (90, 1)


async def test_a_store_that_fails_makes_room_again():
    async def write(_waiting):
        raise OSError("disk full")

    behind = WritingBehind(write, most_bytes=10)
    for _ in range(5):
        await asyncio.wait_for(behind.add("a", b"x" * 10, "text/plain"), 10)
    await asyncio.wait_for(behind.flush(), 10)
