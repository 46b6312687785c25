"""One seed: machines, users, kills and bad weather until everything is quiet again, then the verdict."""

import asyncio
import random
from pathlib import Path

import msgspec
from simulation import invariants
from simulation.faulty_store import FAIR, ROUGH, STORMY, Sea, SharedLog
from simulation.providers import Books, SimulatedProvider, configured
from simulation.services import EvaluatorMachine, GatewayMachine, LedgerMachine, ManagerMachine
from simulation.virtual_loop import Life, VirtualClock, run_virtually
from unit.gateway.support import Caller

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.ports import EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.contracts.lifecycle import Run, evolve
from ridges.contracts.requests import CancelRun, RequestedLimits, RequestRun
from ridges.gateway.errors import GatewayError, InternalError
from ridges.gateway.providers_config import ProvidersConfig
from ridges.ledger.errors import LedgerError

PROBLEM = "tiny"
AGENT = "def agent_main(problem):\n    return ''\n"
STORM_S = 60.0
"""Kills, outages and bad weather end after this time; then all must come to rest by itself."""
REST_S = 600.0
LINGER_S = 30.0
LOOK_AGAIN_S = 3.0
"""How long nothing may change before the world counts as quiet."""


class Outcome(msgspec.Struct, kw_only=True):
    """What became of a seed."""

    seed: int
    failures: list[str]
    events: list[tuple[int, str, str]]
    """(position, id, type) of the whole log."""
    runs: int
    kills: int
    seconds: float
    """Virtual."""


def simulate(seed: int, folder: Path, problems: Path, *, sabotage: str | None = None) -> Outcome:
    """Play the seed. The folder is the ledger's, and is emptied."""
    lives: list[Life] = []
    random.seed(seed)  # some of our code only spreads its retries by it
    outcome = run_virtually(_play(seed, folder, problems, sabotage, lives), lives=lives)
    assert isinstance(outcome, Outcome)
    return outcome


async def _play(seed: int, folder: Path, problems: Path, sabotage: str | None, lives: list[Life]) -> Outcome:
    world = World(seed, folder, problems, lives)
    world.sea.sabotage, world.books.miscounts = sabotage, sabotage == "tokens-miscounted"
    await world.play()
    events = [(recorded.position, recorded.event) async for recorded in world.sea.memory.read_all()]
    failures = list(dict.fromkeys([*world.failures, *invariants.broken(world, events)]))
    world.ledger.kill()
    return Outcome(
        seed=seed,
        failures=failures,
        events=[(position, event.id, type(event).__name__) for position, event in events],
        runs=len(world.asked),
        kills=world.kills,
        seconds=asyncio.get_running_loop().time(),
    )


class World:
    """Everything that the dice of one seed decide."""

    def __init__(self, seed: int, folder: Path, problems: Path, lives: list[Life]) -> None:
        self.dice, self.lives, name = random.Random(f"world/{seed}"), lives, str(seed)
        dice = self.dice
        memory = SharedLog(VirtualClock(random.Random(f"{seed}/log")))
        self.weather = dice.choices((FAIR, ROUGH, STORMY), (1, 3, 1))[0]
        self.sea = Sea(memory, MemoryBlobStore(), self.weather, random.Random(f"{seed}/sea"))
        self.books, self.failures, self.kills = Books(), [], 0
        self.asked: dict[str, RequestRun] = {}
        self.accepted: set[str] = set()
        self.cancelled: set[str] = set()
        self.endings: dict[str, list[str]] = {}
        self._runs: dict[str, Run | None] = {}
        self._read = 0
        provider_names = ["north", "south"][: dice.choice((1, 2))]
        fails = dice.choice((0.0, 0.0, 0.1, 0.3))
        config = ProvidersConfig(providers=tuple(configured(each, 1.0) for each in provider_names), price_list="test")
        adapters = {
            each: SimulatedProvider(each, self.books, random.Random(f"{seed}/{each}"), fails) for each in provider_names
        }
        self.gateways = [
            GatewayMachine(f"gateway-{number}", name, self.sea, config, adapters)
            for number in range(dice.choice((1, 2, 2)))
        ]
        self.managers = [
            ManagerMachine(f"manager-{number}", name, self.sea, folder, self.ask, self._agent_ended, self.reference)
            for number in range(dice.choice((1, 2, 2)))
        ]
        self.evaluators = [
            EvaluatorMachine(f"evaluator-{number}", name, self.sea, problems)
            for number in range(dice.choice((1, 1, 2)))
        ]
        self.ledger = LedgerMachine("ledger", name, self.sea, folder, loses_disk=0.2)
        self.ledger.wipe()
        self.machines = [*self.gateways, *self.managers, *self.evaluators, self.ledger]

    async def play(self) -> None:
        for machine in self.machines:
            self._start(machine)
        users = [asyncio.ensure_future(self._user(number)) for number in range(self.dice.choice((1, 2, 2, 3)))]
        storm = [asyncio.ensure_future(self._outages()), *self._schedule_kills()]
        await asyncio.gather(*users, *storm)
        self.sea.weather = FAIR
        loop = asyncio.get_running_loop()
        give_up_at, quiet_since, known = loop.time() + REST_S, loop.time(), -1
        while loop.time() - quiet_since < LINGER_S:
            if loop.time() > give_up_at:
                self.failures.append(f"not at rest {REST_S:g} s after the last fault: {', '.join(self._restless())}")
                return
            await asyncio.sleep(LOOK_AGAIN_S)
            end = await self.sea.memory.last_position()
            if end != known or self._restless():
                quiet_since, known = loop.time(), end
            self.failures += [each for machine in self.machines for each in machine.trouble()]

    # -- users

    async def _user(self, number: int) -> None:
        dice = random.Random(self.dice.random())
        await asyncio.sleep(dice.uniform(0.0, 15.0))
        request = RequestRun(
            problem=PROBLEM,
            agent_source=AGENT,
            run_id=VirtualClock(dice).new_id(),
            requested_by=f"user-{number % 2}",
            limits=RequestedLimits(
                max_cost_usd=dice.choice(("1.00", "1.00", "0.006", "0.003")),
                max_requests=dice.choice((None, None, 4)),
                agent_timeout_s=dice.choice((30, 60)),
                evaluation_timeout_s=30,
            ),
        )
        self.asked[str(request.run_id)] = request
        await self._persist(lambda: self.ledger.service.ledger.requests.request_run(request))
        self.accepted.add(str(request.run_id))
        if dice.random() < 0.2:
            await asyncio.sleep(dice.uniform(0.0, 30.0))
            cancel = CancelRun(run_id=str(request.run_id))
            await self._persist(lambda: self.ledger.service.ledger.requests.cancel_run(cancel))
            self.cancelled.add(str(request.run_id))

    async def _persist(self, ask) -> None:
        """Ask the ledger until it accepts. It refuses a problem that is not published yet."""
        while True:
            try:
                if not self.ledger.up:
                    raise ConnectionError("the ledger is down")
                await self._in(self.ledger.life, ask())
            except (ConnectionError, EventStoreUnavailable, OSError, LedgerError):
                await asyncio.sleep(1.0)
            else:
                return

    async def ask(self, run_id: str, call) -> None:
        """One model call through any gateway that is up."""
        up = [gateway for gateway in self.gateways if gateway.up]
        if not up:
            await asyncio.sleep(0.5)
            raise ConnectionError("no gateway is up")
        gateway = self.dice.choice(up)
        calls = gateway.service.calls

        async def work() -> None:
            if call.streamed:
                await calls.stream(run_id, call, Caller())
            else:
                await calls.complete(run_id, call, lambda body: body)

        try:
            await self._in(gateway.life, work())
        except (GatewayError, ConnectionError) as failure:
            if isinstance(failure, InternalError):
                self.failures.append(f"{gateway.name}: a call of {run_id} ended with {failure!r}")
            raise

    @staticmethod
    async def _in(life: Life, work):
        """The result of work inside a service; ConnectionError when it is killed. Whoever leaves ends the work."""
        working = life.start(work)
        try:
            await asyncio.wait((working, life.died), return_when=asyncio.FIRST_COMPLETED)
            if life.dead or working.cancelled():
                raise ConnectionError(f"{life.name} is gone")
            return working.result()
        finally:
            if not working.done():
                working.cancel()

    # -- faults

    def _schedule_kills(self) -> list[asyncio.Future[None]]:
        kills = self.dice.choice((0, 1, 2, 3, 5, 8))
        return [
            asyncio.ensure_future(self._kill(self.dice.choice(self.machines), self.dice.uniform(1.0, STORM_S)))
            for _ in range(kills)
        ]

    async def _kill(self, machine, after_s: float) -> None:
        down_s = self.dice.expovariate(1 / 4.0)
        await asyncio.sleep(after_s)
        if not machine.up:
            return
        machine.kill()
        self.kills += 1
        await asyncio.sleep(down_s)
        self._start(machine)

    async def _outages(self) -> None:
        for _ in range(self.dice.choice((0, 0, 0, 1, 2))):
            await asyncio.sleep(self.dice.uniform(2.0, STORM_S / 2))
            self.sea.reachable.clear()
            await asyncio.sleep(self.dice.uniform(0.5, 15.0))
            self.sea.reachable.set()

    def _start(self, machine) -> None:
        self.lives.append(machine.start())

    # -- what the world knows

    def reference(self) -> bytes:
        """The patch that solves the problem."""
        publisher = next(each.service.publisher for each in self.evaluators if each.service is not None)
        return publisher.find(PROBLEM).reference

    def _agent_ended(self, run_id: str, ending: str) -> None:
        self.endings.setdefault(run_id, []).append(ending)

    def runs(self) -> dict[str, Run | None]:
        """Every run as its events have it by now."""
        for stored in self.sea.memory._log[self._read :]:
            event = stored.recorded().event
            if not isinstance(event, ev.ProblemPublished):
                self._runs[event.run_id] = evolve(self._runs.get(event.run_id), event)
        self._read = len(self.sea.memory._log)
        return self._runs

    def _restless(self) -> list[str]:
        """What is still at work."""
        runs = self.runs()
        open_runs = {run_id: run for run_id, run in runs.items() if run is None or not run.ended}
        found = [f"run {run_id} is {run.state if run else 'unknown'}" for run_id, run in open_runs.items()]
        found += [f"run {run_id} is not in the log" for run_id in self.asked if run_id not in runs]
        queues = self.sea.memory.queues.items()
        found += [
            f"{len(queue.undigested)} poison messages are in {name}" for name, queue in queues if queue.undigested
        ]
        found += [f"{machine.name} is down" for machine in self.machines if not machine.up]
        if self.ledger.up and not found:
            parts = self.ledger.service
            if parts.ledger.projector.position != len(self.sea.memory._log):
                found.append(f"the ledger is at {parts.ledger.projector.position}: {parts.ledger.projector.stopped}")
            found += [f"call {each.call_id} is open" for each in parts.queries.open_reservations()]
        return found
