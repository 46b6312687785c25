"""The four services as they are wired in their own composition roots, on a simulated machine."""

import random
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import CollectorRegistry
from simulation.faulty_store import FaultyBlobs, FaultyStore, Sea
from simulation.sandboxes import NoProxies, SimulatedSandbox
from simulation.virtual_loop import Life, VirtualClock
from unit.gateway.support import KEY

from ridges.evaluator.app import Evaluator
from ridges.evaluator.settings import EvaluatorSettings
from ridges.gateway import app as gateway_app
from ridges.gateway.meters import Meters
from ridges.gateway.providers_config import ProvidersConfig
from ridges.gateway.settings import GatewaySettings
from ridges.ledger import agent_source
from ridges.ledger import queries as reading
from ridges.ledger.app import TABLES, Ledger
from ridges.ledger.projections import apply
from ridges.ledger.running_passes import ThreadPasses
from ridges.ledger.settings import LedgerSettings
from ridges.sandbox_manager.admission import Admission
from ridges.sandbox_manager.app import Service
from ridges.sandbox_manager.attempt_copies import AttemptCopies
from ridges.sandbox_manager.capacity import Capacity, FreeSpace
from ridges.sandbox_manager.handlers import Handlers
from ridges.sandbox_manager.live import LiveSandboxes
from ridges.sandbox_manager.metrics import ManagerMetrics
from ridges.sandbox_manager.mishaps import Patience
from ridges.sandbox_manager.settings import ManagerSettings
from ridges.sandbox_manager.sweeper import Sweeper
from ridges.sandbox_manager.technologies import Technologies
from ridges.sandbox_manager.workbench import Workbench

BLOBS_URL = "file:///simulated"
SETTLE_GRACE_S = 20.0
MAX_ATTEMPTS = 3


class Machine:
    """A place where one service runs, one life after the other."""

    def __init__(self, name: str, seed: str, sea: Sea) -> None:
        self.name, self._seed, self._sea = name, seed, sea
        self._dice = random.Random(f"{seed}/{name}")
        self._skew_s = self._dice.uniform(-0.1, 0.1)
        self._lives = 0
        self.life: Life | None = None
        self.service = None
        self.background: list = []
        """Tasks that a healthy service never ends."""

    @property
    def up(self) -> bool:
        return self.life is not None and not self.life.dead

    def start(self) -> Life:
        self._lives += 1
        self.life = Life(self.name, random.Random(f"{self._seed}/{self.name}/{self._lives}"))
        store, blobs = FaultyStore(self._sea, self.life), FaultyBlobs(self._sea, self.life)
        self.service, work = self.wire(store, blobs, VirtualClock(self.life.dice, self._skew_s))
        self.background = [(getattr(each, "__qualname__", "work"), self.life.start(each())) for each in work]
        return self.life

    def kill(self) -> None:
        assert self.life is not None
        self.life.kill()

    def trouble(self) -> list[str]:
        """Parts that ended though nobody killed them: a process would have gone down with them."""
        if not self.up:
            return []
        found = []
        for name, task in self.background:
            if task.done() and not task.cancelled() and task.exception() is not None:
                found.append(f"{self.name}: {name} ended with {task.exception()!r}")
        return found

    def wire(self, store, blobs, clock):
        raise NotImplementedError


class GatewayMachine(Machine):
    def __init__(self, name, seed, sea, config: ProvidersConfig, adapters) -> None:
        super().__init__(name, seed, sea)
        self._config, self._adapters = config, adapters

    def wire(self, store, blobs, clock):
        assert self.life is not None
        gateway = gateway_app.wire_gateway(
            GatewaySettings(
                config=Path("ridges.toml"),
                run_token_key=KEY.hex(),
                blobs_url=BLOBS_URL,
                gateway_name=self.name,
                budget_wait_s=5.0,
                call_deadline_s=40.0,
            ),
            self._config,
            adapters=self._adapters,
            store=store,
            blobs=blobs,
            clock=clock,
            meters=Meters(CollectorRegistry()),
            rng=self.life.dice,
        )
        return gateway, [work for work in gateway.background if work.__name__ != "on_sighup"]


class ManagerMachine(Machine):
    def __init__(self, name, seed, sea, folder: Path, ask, ended, reference) -> None:
        super().__init__(name, seed, sea)
        self._folder, self._ask, self._ended, self._reference = folder / name, ask, ended, reference

    def wire(self, store, blobs, clock):
        chosen = ManagerSettings(
            run_token_key=KEY.hex(),
            state_dir=Path("/simulated"),
            blobs_url=BLOBS_URL,
            manager_name=self.name,
            claim_ahead=3,
            claim_s=10.0,
            ack_wait_s=9.0,
            min_free_bytes=0,
            max_attempts=MAX_ATTEMPTS,
        )
        live, metrics, proxies = LiveSandboxes(), ManagerMetrics(CollectorRegistry()), NoProxies()
        sandbox = SimulatedSandbox(self._seed, self._ask, self._ended, self._reference)
        technologies = Technologies({"docker": sandbox}, "docker", clock)
        agents, evaluations = Admission(2, 1 << 40), Admission(2, 1 << 40)
        workbench = Workbench(
            store=store,
            blobs=blobs,
            clock=clock,
            technologies=technologies,
            proxies=proxies,
            metrics=metrics,
            patience=Patience(clock, chosen.sandbox_wait_s),
            free_space=FreeSpace([], 0),
            attempt_copies=AttemptCopies(self._folder),
            manager_name=self.name,
            docker_image="image",
            max_attempts=MAX_ATTEMPTS,
        )
        handlers = Handlers(workbench, live=live, agents=agents, evaluations=evaluations, claim_s=chosen.claim_s)
        capacity = Capacity(slots=2, evaluation_slots=2, memory_bytes=1 << 40, evaluation_memory_bytes=1 << 40)
        sweeper = Sweeper(technologies, proxies, live, metrics, workbench.attempt_copies)
        service = Service(chosen, capacity, store, (agents, evaluations), handlers, sweeper, http=None)
        return service, [service.work]


class EvaluatorMachine(Machine):
    def __init__(self, name, seed, sea, problems: Path) -> None:
        super().__init__(name, seed, sea)
        self._problems = problems

    def wire(self, store, blobs, clock):
        settings = EvaluatorSettings(
            blobs_url=BLOBS_URL, problems_dirs=(self._problems,), rescan_s=100_000.0, ack_wait_s=9.0
        )
        evaluator = Evaluator(settings, store=store, blobs=blobs, clock=clock)
        return evaluator, [evaluator.publisher.run, evaluator.work]


class LedgerMachine(Machine):
    """With the folder that holds its tables; a new life finds what the old one left, or an empty disk."""

    def __init__(self, name, seed, sea, folder: Path, *, loses_disk: float) -> None:
        super().__init__(name, seed, sea)
        self._folder, self._loses_disk = folder, loses_disk
        self._open = ExitStack()

    def wire(self, store, blobs, clock):
        path = self._folder / TABLES
        projections = self._open.enter_context(apply.opened(path))
        queries = self._open.enter_context(reading.opened(path))
        ledger = Ledger(
            LedgerSettings(blobs_url=BLOBS_URL, state_dir=self._folder, settle_grace_s=SETTLE_GRACE_S),
            store=store,
            blobs=blobs,
            clock=clock,
            projections=projections,
            queries=queries,
            refusals=None,
            passes=ThreadPasses(store, blobs, clock, SETTLE_GRACE_S),
        )
        ledger.requests._examine_agent = _examine  # the child process of the real one has no virtual time
        parts = SimpleNamespace(ledger=ledger, queries=queries)
        return parts, [ledger.projector.run, ledger.rebuilder.upgrade, ledger.settler.run]

    def kill(self) -> None:
        super().kill()
        self.close()
        if self._dice.random() < self._loses_disk:
            self.wipe()

    def close(self) -> None:
        self._open.close()

    def wipe(self) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()


async def _examine(content: bytes) -> str | None:
    return agent_source.agent_problem(content)


def without_http() -> None:
    """Calls come in below HTTP here; building the routes of a thousand gateways would take most of the time."""
    gateway_app._http = lambda *_: None
