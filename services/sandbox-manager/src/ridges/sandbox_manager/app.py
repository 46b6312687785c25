"""Composition root: settings to a running service."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog
from litestar import Litestar

from ridges.chassis import logs, serving, settings
from ridges.chassis.blob_store import open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.event_store import open_event_store
from ridges.chassis.health import health_handlers
from ridges.chassis.ports import DeliveryPolicy, EventStore, EventStoreUnavailable
from ridges.chassis.problems_http import exception_handlers
from ridges.contracts.events import EvaluationRequested, RunRequested
from ridges.sandbox_manager.admission import Admission
from ridges.sandbox_manager.attempt_copies import AttemptCopies
from ridges.sandbox_manager.bare_process import BareProcessSandbox
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.capacity import Capacity, FreeSpace, capacity_of, this_machine
from ridges.sandbox_manager.ceilings import BoundedSandbox, Ceilings
from ridges.sandbox_manager.docker_engine import DockerSandbox, HostPath
from ridges.sandbox_manager.errors import SettingRefused, StateDirTaken
from ridges.sandbox_manager.handlers import Handlers
from ridges.sandbox_manager.live import LiveSandboxes
from ridges.sandbox_manager.metrics import ManagerMetrics
from ridges.sandbox_manager.mishaps import Patience
from ridges.sandbox_manager.ports import Sandbox
from ridges.sandbox_manager.proxy import NginxProxies, find_nginx, make_runtime_dir
from ridges.sandbox_manager.routes import live_router, technologies_router
from ridges.sandbox_manager.settings import ManagerSettings
from ridges.sandbox_manager.state_dir import own_state_dir
from ridges.sandbox_manager.sweeper import Sweeper
from ridges.sandbox_manager.technologies import Technologies
from ridges.sandbox_manager.workbench import Workbench

log = structlog.get_logger(__name__)

NAME = "sandbox-manager"
AGENTS_QUEUE = "sandbox-manager"
EVALUATIONS_QUEUE = "sandbox-manager-evaluations"
_EXIT_BAD_SETTINGS = 2
_MANY = 1_000_000
"""The handlers themselves end what cannot be served, truthfully; parking would leave its run open for ever."""
_RETRY_DELAYS_S = (0.5, 2.0, 5.0, 10.0)
_CLEAN_UP_S = 3.0
"""Part of the drain that is kept for removing sandboxes that did not end by themselves."""


def main() -> NoReturn:
    """Run the service until SIGTERM; ends the process."""
    try:
        serving.run(_main)
    except (SettingRefused, StateDirTaken) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_EXIT_BAD_SETTINGS)


async def _main() -> None:
    chosen = settings.load(ManagerSettings)
    logs.configure(NAME, chosen.log_format, chosen.log_level)
    with own_state_dir(chosen.state_dir.absolute()) as installation:
        async with contextlib.AsyncExitStack() as resources:
            store = await resources.enter_async_context(
                open_event_store(
                    chosen.nats_url,
                    name=f"{NAME} {chosen.manager_name}",
                    event_store_url=chosen.event_store_url,
                    monitor_url=chosen.nats_monitor_url,
                    user=chosen.nats_user,
                    password=chosen.nats_password,
                    allow_lossy=chosen.allow_lossy_log,
                    log_epoch=chosen.log_epoch,
                )
            )
            service = await resources.enter_async_context(build(chosen, installation, store))
            await service.serve()


@contextlib.asynccontextmanager
async def build(chosen: ManagerSettings, installation: str, store: EventStore) -> AsyncIterator["Service"]:
    """The service, wired but not yet at work."""
    state_dir = chosen.state_dir.absolute()
    runtime_dir = make_runtime_dir(state_dir, installation, only_state_dir=chosen.host_state_dir is not None)
    host_path = HostPath(state_dir, chosen.host_state_dir) if chosen.host_state_dir else None
    clock, live, metrics = SystemClock(), LiveSandboxes(), ManagerMetrics()
    capacity = capacity_of(this_machine(), chosen)
    admission = Admission(capacity.slots, capacity.memory_bytes)
    evaluations = Admission(capacity.evaluation_slots, capacity.evaluation_memory_bytes)
    metrics.slots("agent", capacity.slots)
    metrics.slots("evaluation", capacity.evaluation_slots)
    metrics.waiting(lambda: admission.waiting)
    free_space = FreeSpace(disk_folders(chosen), chosen.min_free_bytes)
    docker = DockerSandbox(
        owner=installation,
        default_image=chosen.agent_image,
        engine_url=chosen.docker_url,
        runtime=chosen.docker_runtime,
        network=chosen.docker_network,
        host_path=host_path or (lambda path: path),
        hosts_file=state_dir / "hosts",
    )
    bubblewrap = BubblewrapSandbox(python=chosen.agent_python)
    technologies = Technologies(adapters(chosen, docker, bubblewrap), chosen.sandbox, clock)
    proxies = NginxProxies(
        runtime_dir=runtime_dir,
        nginx=find_nginx(runtime_dir),
        gateway_url=chosen.gateway_url,
        token_key=chosen.token_key,
    )
    blobs = open_blob_store(chosen.blobs_url)
    workbench = Workbench(
        store=store,
        blobs=blobs,
        clock=clock,
        technologies=technologies,
        proxies=proxies,
        metrics=metrics,
        patience=Patience(clock, chosen.sandbox_wait_s),
        free_space=free_space,
        attempt_copies=AttemptCopies(state_dir / "logs"),
        manager_name=chosen.manager_name,
        docker_image=chosen.agent_image,
        max_attempts=chosen.max_attempts,
        partial_patch_interval_s=chosen.partial_patch_interval_s,
    )
    handlers = Handlers(workbench, live=live, agents=admission, evaluations=evaluations, claim_s=chosen.claim_s)
    try:
        checks = {
            "event log": store.ping,
            "blobs": blobs.ping,
            "sandbox": technologies.check,
            "disk": free_space.check,
        }
        http = Litestar(
            [
                *health_handlers(NAME, checks),
                live_router(live, chosen.api_token),
                technologies_router(technologies, chosen.api_token),
            ],
            openapi_config=None,
            exception_handlers=exception_handlers,
        )
        sweeper = Sweeper(technologies, proxies, live, metrics, workbench.attempt_copies)
        yield Service(chosen, capacity, store, (admission, evaluations), handlers, sweeper, http)
    finally:
        await technologies.close()
        await docker.close()
        bubblewrap.close()
        if runtime_dir.parent != state_dir:
            with contextlib.suppress(OSError):
                (runtime_dir / "nginx").unlink(missing_ok=True)
                runtime_dir.rmdir()


def adapters(chosen: ManagerSettings, docker: DockerSandbox, bubblewrap: BubblewrapSandbox) -> dict[str, Sandbox]:
    """Every technology this manager may use."""
    found: dict[str, Sandbox] = {"docker": docker, "bubblewrap": bubblewrap}
    if chosen.allow_process:
        found["process"] = BareProcessSandbox(state_dir=chosen.state_dir.absolute(), python=chosen.agent_python)
    ceilings = Ceilings.of(chosen)
    return {name: BoundedSandbox(sandbox, ceilings) for name, sandbox in found.items()}


def disk_folders(chosen: ManagerSettings) -> list[Path]:
    """Where this manager and its blobs fill disks of this machine."""
    folders = [chosen.state_dir.absolute()]
    if chosen.blobs_url.startswith("file://"):
        folders.append(Path(chosen.blobs_url.removeprefix("file://")))
    return folders


class Service:
    """The manager at work."""

    def __init__(
        self,
        chosen: ManagerSettings,
        capacity: Capacity,
        store: EventStore,
        places: Sequence[Admission],
        handlers: Handlers,
        sweeper: Sweeper,
        http: Litestar,
    ) -> None:
        self._chosen, self._capacity, self._store = chosen, capacity, store
        self._places, self._handlers, self._sweeper, self._http = places, handlers, sweeper, http
        self._draining = asyncio.Event()
        self._drained = asyncio.Event()
        self._consuming = False

    async def serve(self) -> None:
        """Until SIGTERM: then no new runs, those at work may end, the rest goes back to the queue."""
        await serving.serve(
            self._http,
            host=self._chosen.http_host,
            port=self._chosen.http_port,
            background=(self.work, lambda: self._sweeper.keep_sweeping(self._chosen.sweep_interval_s)),
            drain=self.drain,
            drain_timeout_s=self._chosen.drain_timeout_s + _CLEAN_UP_S,
        )

    async def work(self) -> None:
        """Takes requests until ``drain``."""
        after = await self._end_of_log()
        watching = asyncio.create_task(self._handlers.watch(after))
        policy = DeliveryPolicy(ack_wait_s=self._chosen.ack_wait_s, max_deliver=_MANY, retry_delays_s=_RETRY_DELAYS_S)
        claims = msgspec.structs.replace(policy, concurrency=self._capacity.slots + self._chosen.claim_ahead)
        evaluation_slots = msgspec.structs.replace(policy, concurrency=self._capacity.evaluation_slots)
        consume = self._store.consume
        self._consuming = True
        async with (
            consume(AGENTS_QUEUE, [RunRequested], self._handlers.run_agent, claims) as agents,
            consume(EVALUATIONS_QUEUE, [EvaluationRequested], self._handlers.run_evaluation, evaluation_slots) as evals,
        ):
            draining = asyncio.create_task(self._draining.wait())
            try:
                await asyncio.wait((watching, draining), return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()
                timeout_s = self._chosen.drain_timeout_s
                agents.stop_fetching()
                for places in self._places:
                    places.close()
                await asyncio.gather(agents.drain(timeout_s), evals.drain(timeout_s))
                await self._sweeper.last_sweep()
            finally:
                draining.cancel()
                watching.cancel()
                self._drained.set()

    async def drain(self) -> None:
        """Returns when no run is at work any more."""
        self._draining.set()
        if self._consuming:
            await self._drained.wait()

    async def _end_of_log(self) -> int:
        """Where cancels are watched from: read before the first run is taken, so that none is missed."""
        while True:
            try:
                return await self._store.last_position()
            except EventStoreUnavailable as error:
                log.warning("waiting for the event log", error=str(error))
                await asyncio.sleep(1.0)
