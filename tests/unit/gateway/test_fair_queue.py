"""Slots go to waiting runs in turn; nothing is lost when waiters leave."""

import asyncio

import pytest

from ridges.gateway.fair_queue import FairQueue


async def line_up(queue, run_ids):
    """Waiters in this order, and the list that grows as they are served."""
    served = []

    async def wait(run_id):
        if await queue.wait(run_id, 5):
            served.append(run_id)

    tasks = []
    for run_id in run_ids:
        tasks.append(asyncio.create_task(wait(run_id)))
        await asyncio.sleep(0)
    return tasks, served


async def test_a_run_with_many_calls_does_not_keep_out_a_run_with_one():
    queue = FairQueue(1, 100)
    assert queue.take()
    tasks, served = await line_up(queue, ["greedy"] * 5 + ["modest", "greedy", "third"])
    for _ in tasks:
        queue.release()
        await asyncio.sleep(0.001)
    assert served == ["greedy", "modest", "third", *["greedy"] * 5]
    queue.release()
    assert queue.idle


async def test_the_queue_is_bounded():
    queue = FairQueue(1, 2)
    assert queue.take()
    tasks, served = await line_up(queue, ["a", "b", "c"])
    assert queue.full
    assert not await queue.wait("d", 5), "told at once"
    for _ in range(2):
        queue.release()
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert served == ["a", "b"]


async def test_a_wait_that_takes_too_long_ends_without_a_slot():
    queue = FairQueue(1, 10)
    assert queue.take()
    assert not await queue.wait("a", 0.01)
    queue.release()
    assert queue.idle


@pytest.mark.parametrize("given", [False, True])
async def test_a_waiter_that_leaves_takes_no_slot_with_it(given):
    queue = FairQueue(1, 10)
    assert queue.take()
    waiting = asyncio.create_task(queue.wait("a", 5))
    await asyncio.sleep(0.001)
    if given:
        queue.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not given:
        queue.release()
    assert queue.idle
