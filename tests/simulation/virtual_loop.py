"""An event loop whose time jumps to the next timer, services' lives in it, and a clock that follows it.

Nothing waits, nothing runs beside: the same dice give the same order of everything.
"""

import asyncio
import random
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from selectors import SelectSelector

BEGAN_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIFE: "ContextVar[Life | None]" = ContextVar("LIFE", default=None)
CANCEL_ROUNDS = 12


class Stuck(Exception):
    """Nothing is ready and no timer is set: everybody waits for somebody else."""


class _Skipping(SelectSelector):
    """Waits for nothing: adds what it should wait to the loop's time."""

    loop: "VirtualLoop"

    def select(self, timeout=None):
        if timeout is None:
            raise Stuck("every task waits and no timer is set")
        if timeout > 0:
            self.loop.skip(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Threads are not used: what asks for one runs at once, where it stands."""

    def __init__(self) -> None:
        selector = _Skipping()
        super().__init__(selector)
        selector.loop = self
        self._now = 0.0
        self.strays: list[asyncio.Task] = []
        """Tasks that belong to no life."""
        self.set_task_factory(_task_of_a_life)

    def time(self) -> float:
        return self._now

    def skip(self, seconds: float) -> None:
        self._now += seconds

    def run_in_executor(self, executor, func, *args):
        outcome = self.create_future()
        try:
            outcome.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does
            outcome.set_exception(error)
        return outcome


class Life:
    """One process of a service, from its start until it is killed. Every task that it makes belongs to it."""

    def __init__(self, name: str, dice: random.Random) -> None:
        self.name, self.dice = name, dice
        self.dead = False
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tasks: list[asyncio.Task] = []

    def start(self, work) -> asyncio.Task:
        """A task of this life, whoever makes it."""
        context = copy_context()
        context.run(LIFE.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def kill(self) -> None:
        """kill -9: from now on nothing that it does has an effect, and its tasks go away."""
        if self.dead:
            return
        self.dead = True
        self.died.set_result(None)
        self._cancel(CANCEL_ROUNDS)

    def _cancel(self, rounds: int) -> None:
        left = [task for task in self.tasks if not task.done()]
        for task in left:
            task.cancel()
        if left and rounds:
            asyncio.get_running_loop().call_soon(self._cancel, rounds - 1)

    async def never(self) -> None:
        """Where the calls of the dead end up."""
        await asyncio.get_running_loop().create_future()


class VirtualClock:
    """The ``Clock`` of one life. Machines' clocks differ a little: ``skew_s``."""

    def __init__(self, dice: random.Random, skew_s: float = 0.0) -> None:
        self._loop, self._dice, self._skew_s = asyncio.get_running_loop(), dice, skew_s

    def now(self) -> datetime:
        return BEGAN_AT + timedelta(seconds=self._loop.time() + self._skew_s)

    def monotonic(self) -> float:
        return 1_000.0 + self._loop.time()

    def new_id(self) -> str:
        """Of the form of a UUIDv7."""
        at_ms = int((BEGAN_AT.timestamp() + self._loop.time()) * 1000)
        rest = self._dice.getrandbits(74)
        digits = f"{at_ms:012x}7{rest >> 62:03x}{8 + (rest >> 60 & 3):x}{rest & (1 << 60) - 1:015x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _task_of_a_life(loop, work, context: Context | None = None, **options) -> asyncio.Task:
    task = asyncio.Task(work, loop=loop, context=context, **options)
    life = LIFE.get() if context is None else context.get(LIFE)
    (loop.strays if life is None else life.tasks).append(task)
    return task


def run_virtually(work, *, lives) -> object:
    """The result of the work on a loop of its own; in the end every life that the list has by then is killed."""
    loop = VirtualLoop()
    loop.set_exception_handler(lambda _loop, _context: None)  # services tell by their logs and by how they end
    asyncio.set_event_loop(loop)
    main = loop.create_task(work)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_end_all(lives))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


async def _end_all(lives) -> None:
    for life in lives:
        life.kill()
    strays, me = asyncio.get_running_loop().strays, asyncio.current_task()
    for _ in range(CANCEL_ROUNDS):
        for task in strays:
            if task is not me and not task.done():
                task.cancel()
        await asyncio.sleep(0)
