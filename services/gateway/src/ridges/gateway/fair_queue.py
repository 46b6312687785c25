"""Slots of one provider, handed out in turns by run: a run with a thousand calls does not keep out a run with one."""

import asyncio
from collections import OrderedDict, deque


class FairQueue:
    """A semaphore whose waiters are served run by run, in order of arrival within a run. Not for several threads."""

    def __init__(self, slots: int, most_waiting: int) -> None:
        self.free = slots
        self._slots, self._most_waiting = slots, most_waiting
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiters = 0

    @property
    def depth(self) -> tuple[int, int]:
        """(slots taken, waiters)."""
        return self._slots - self.free, self._waiters

    @property
    def idle(self) -> bool:
        """Nobody has a slot, nobody waits for one."""
        return self.free == self._slots and not self._waiters

    @property
    def full(self) -> bool:
        """A call that came now would neither get a slot nor a place in the queue."""
        return not self.free and self._waiters >= self._most_waiting

    def take(self) -> bool:
        """A slot at once, or none."""
        if not self.free:
            return False
        self.free -= 1
        return True

    async def wait(self, run_id: str, timeout_s: float) -> bool:
        """A slot in turn. False: the queue is full, or the timeout passed."""
        if self.take():
            return True
        if self.full:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, deque()).append(turn)
        self._waiters += 1
        try:
            await asyncio.wait({turn}, timeout=timeout_s)
        except asyncio.CancelledError:
            self._forget(run_id, turn)
            raise
        if turn.done():
            return True
        self._forget(run_id, turn)
        return False

    def release(self) -> None:
        """Give a slot back: it goes to the next run in turn, else it is free."""
        if not self._waiting:
            self.free += 1
            return
        run_id, turns = next(iter(self._waiting.items()))
        turn = turns.popleft()
        self._waiters -= 1
        del self._waiting[run_id]
        if turns:
            self._waiting[run_id] = turns
        turn.set_result(None)

    def _forget(self, run_id: str, turn: "asyncio.Future[None]") -> None:
        """The waiter leaves; a slot that it was given meanwhile goes on to the next."""
        if turn.done():
            self.release()
            return
        turn.cancel()
        turns = self._waiting[run_id]
        turns.remove(turn)
        self._waiters -= 1
        if not turns:
            del self._waiting[run_id]
