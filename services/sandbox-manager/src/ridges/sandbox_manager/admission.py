"""Who gets the next free slot: the highest priority first; among equals users take turns, and a user's batches too.

One manager's view: it orders the requests that it holds. A request that waits here was claimed from the queue, but
nothing of it has begun: it is lost with the manager, or given back, at no cost.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from ridges.chassis.ports import Recorded
from ridges.contracts.events import RunRequested


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a slot."""

    position: int
    """In the log: the older goes first where nothing else decides."""
    priority: int = 0
    user: str = ""
    batch: str = ""
    memory_bytes: int = 0

    @classmethod
    def of(cls, recorded: Recorded) -> "Want":
        """What a RunRequested wants."""
        requested = recorded.event
        assert isinstance(requested, RunRequested)
        return cls(
            position=recorded.position,
            priority=requested.priority,
            user=requested.requested_by or "",
            batch=requested.batch_id or "",
            memory_bytes=requested.limits.sandbox.memory_bytes,
        )


class Turns:
    """Whose turn it is. Pure: counts who is at work and remembers who was served last."""

    def __init__(self) -> None:
        self._turn = 0
        self._at_work: Counter[tuple[str, ...]] = Counter()
        self._served: dict[tuple[str, ...], int] = {}

    def rank(self, want: Want) -> tuple[int, ...]:
        """The smallest is next."""
        user, batch = (want.user,), (want.user, want.batch)
        return (
            -want.priority,
            *(self._at_work[user], self._served.get(user, 0)),
            *(self._at_work[batch], self._served.get(batch, 0)),
            want.position,
        )

    def start(self, want: Want) -> None:
        self._turn += 1
        for share in ((want.user,), (want.user, want.batch)):
            self._at_work[share] += 1
            self._served[share] = self._turn

    def end(self, want: Want) -> None:
        for share in ((want.user,), (want.user, want.batch)):
            self._at_work[share] -= 1
            if not self._at_work[share]:
                del self._at_work[share]

    def forget_all_but(self, waiting: list[Want]) -> None:
        """Who neither works nor waits is a newcomer when it comes back."""
        known = {(want.user,) for want in waiting} | {(want.user, want.batch) for want in waiting} | set(self._at_work)
        self._served = {share: turn for share, turn in self._served.items() if share in known}


class Admission:
    """The slots of one manager."""

    def __init__(self, slots: int, memory_bytes: int) -> None:
        """So many at once, and all together at most so much memory; one that alone wants more still gets its turn."""
        self.slots, self._memory_bytes = slots, memory_bytes
        self._turns = Turns()
        self._at_work: list[Want] = []
        self._waiting: dict[asyncio.Future[bool], Want] = {}
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def at_work(self) -> int:
        return len(self._at_work)

    def close(self) -> None:
        """Nobody gets a slot any more; those who wait hear it at once."""
        self._closed = True
        for granted in self._waiting:
            if not granted.done():
                granted.set_result(False)

    @contextlib.asynccontextmanager
    async def place(self, want: Want, *, given_up: asyncio.Event, wait_s: float) -> AsyncIterator[bool]:
        """A slot for the time of the block: True. False when there was none in time, or it is not wanted any more."""
        granted = asyncio.get_running_loop().create_future()
        if self._closed:
            yield False
            return
        self._waiting[granted] = want
        self._admit()
        try:
            if not granted.done():
                await _first_of(granted, given_up, wait_s)
            self._waiting.pop(granted, None)
            yield granted.done() and granted.result()
        finally:
            self._waiting.pop(granted, None)
            if granted.done() and granted.result():
                self._at_work.remove(want)
                self._turns.end(want)
                self._admit()

    def _admit(self) -> None:
        """The next in turn is waited for when it does not fit: else large requests would never get their memory."""
        while self._waiting and len(self._at_work) < self.slots and not self._closed:
            granted, want = min(self._waiting.items(), key=lambda entry: self._turns.rank(entry[1]))
            used = sum(other.memory_bytes for other in self._at_work)
            if self._at_work and used + want.memory_bytes > self._memory_bytes:
                return
            del self._waiting[granted]
            self._at_work.append(want)
            self._turns.start(want)
            granted.set_result(True)
        self._turns.forget_all_but(list(self._waiting.values()))


async def _first_of(granted: asyncio.Future[bool], given_up: asyncio.Event, wait_s: float) -> None:
    giving_up = asyncio.ensure_future(given_up.wait())
    try:
        await asyncio.wait((granted, giving_up), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        giving_up.cancel()
