"""Who gets the next slot."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.sandbox_manager.admission import Admission, Turns, Want

GIB = 1 << 30


def want(position: int, user: str = "", batch: str = "", priority: int = 0, memory_bytes: int = 0) -> Want:
    return Want(position=position, user=user, batch=batch, priority=priority, memory_bytes=memory_bytes)


class Crowd:
    """Requests that wait for slots and write down when they got one."""

    def __init__(self, slots: int, memory_bytes: int = 100 * GIB) -> None:
        self.admission = Admission(slots, memory_bytes)
        self.order: list[int] = []
        self.ends: dict[int, asyncio.Event] = {}
        self.tasks: list[asyncio.Task] = []
        self.given_up = asyncio.Event()

    async def come(self, *wants: Want, wait_s: float = 30) -> None:
        for each in wants:
            self.tasks.append(asyncio.create_task(self._one(each, wait_s)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _one(self, each: Want, wait_s: float) -> bool:
        end = self.ends[each.position] = asyncio.Event()
        async with self.admission.place(each, given_up=self.given_up, wait_s=wait_s) as placed:
            if placed:
                self.order.append(each.position)
                await end.wait()
        return placed

    async def end(self, position: int) -> None:
        self.ends[position].set()
        await asyncio.sleep(0.005)

    async def end_all_in_order(self) -> list[int]:
        done = 0
        while done < len(self.order):
            await self.end(self.order[done])
            done += 1
        return self.order


async def test_no_more_than_the_slots_and_the_oldest_first():
    crowd = Crowd(2)
    await crowd.come(*(want(n) for n in range(5)))
    assert (crowd.order, crowd.admission.at_work, crowd.admission.waiting) == ([0, 1], 2, 3)
    assert await crowd.end_all_in_order() == [0, 1, 2, 3, 4]
    assert (crowd.admission.at_work, crowd.admission.waiting) == (0, 0)


async def test_a_higher_priority_overtakes_all_who_wait():
    crowd = Crowd(1)
    await crowd.come(want(0), want(1), want(2, priority=-1), want(3, priority=7), want(4, priority=8))
    assert await crowd.end_all_in_order() == [0, 4, 3, 1, 2]


async def test_a_user_with_a_thousand_runs_does_not_make_another_wait():
    crowd = Crowd(1)
    await crowd.come(*(want(n, "many") for n in range(1000)))
    await crowd.come(want(1000, "few"), want(1001, "few"))
    for n in range(4):
        await crowd.end(crowd.order[n])
    assert crowd.order == [0, 1000, 1, 1001, 2]


async def test_slots_are_shared_evenly_among_users_and_then_among_their_batches():
    crowd = Crowd(4)
    await crowd.come(*(want(n, "a", "one") for n in range(10)))
    await crowd.come(*(want(n, "a", "two") for n in range(10, 20)), *(want(n, "b") for n in range(20, 30)))
    assert crowd.order == [0, 1, 2, 3]
    for n in range(4):
        await crowd.end(n)
    at_work = crowd.order[4:]
    assert sorted("a1" if n < 10 else "a2" if n < 20 else "b" for n in at_work) == ["a1", "a2", "b", "b"]


async def test_memory_is_a_limit_too_and_a_large_run_is_not_overtaken_for_ever():
    crowd = Crowd(4, memory_bytes=4 * GIB)
    await crowd.come(want(0, memory_bytes=3 * GIB), want(1, memory_bytes=3 * GIB), want(2, memory_bytes=GIB))
    assert crowd.order == [0]
    await crowd.end(0)
    assert crowd.order == [0, 1, 2]


async def test_a_run_larger_than_everything_gets_the_machine_for_itself():
    crowd = Crowd(4, memory_bytes=4 * GIB)
    await crowd.come(want(0, memory_bytes=9 * GIB), want(1, memory_bytes=GIB))
    assert crowd.order == [0]
    await crowd.end(0)
    assert crowd.order == [0, 1]


async def test_who_waits_too_long_or_is_given_up_leaves_no_trace():
    crowd = Crowd(1)
    await crowd.come(want(0))
    await crowd.come(want(1), wait_s=0.02)
    await crowd.come(want(2))
    assert await crowd.tasks[1] is False
    crowd.given_up.set()
    assert await crowd.tasks[2] is False
    assert (crowd.admission.at_work, crowd.admission.waiting) == (1, 0)


async def test_closed_nobody_gets_a_slot_any_more():
    crowd = Crowd(1)
    await crowd.come(want(0), want(1))
    crowd.admission.close()
    assert await crowd.tasks[1] is False
    await crowd.end(0)
    await crowd.come(want(2))
    assert await crowd.tasks[2] is False
    assert crowd.order == [0]


@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_at_any_moment_no_slot_is_lost(seed):
    crowd = Crowd(3)
    await crowd.come(*(want(n) for n in range(30)))
    for number, task in enumerate(crowd.tasks):
        if (number * 7 + seed) % 3:
            task.cancel()
            if number % 2:
                await asyncio.sleep(0)
    await crowd.end_all_in_order()
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert (crowd.admission.at_work, crowd.admission.waiting) == (0, 0)
    assert crowd.admission._turns._served == {}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=1, max_size=60))
def test_with_one_slot_no_user_is_served_twice_while_another_waits(asked):
    turns, waiting = Turns(), [want(n, user, batch) for n, (user, batch) in enumerate(asked)]
    since: dict[str, int] = {}
    while waiting:
        chosen = min(waiting, key=turns.rank)
        turns.start(chosen)
        turns.end(chosen)
        waiting.remove(chosen)
        for user in {each.user for each in waiting} - {chosen.user}:
            since[user] = since.get(user, 0) + 1
            assert since[user] <= 3
        since[chosen.user] = 0
