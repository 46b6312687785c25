"""Composition root: settings to a running service."""

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import NoReturn

from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from ridges.chassis import logs, problems_http, serving, settings
from ridges.chassis.blob_store import BlobsUrlError, open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.event_store import open_event_store
from ridges.chassis.health import health_handlers
from ridges.chassis.ports import BlobStore, Clock, DeliveryPolicy, EventStore, EventStoreUnavailable
from ridges.chassis.settings import SettingsError
from ridges.contracts.events import EvaluationSandboxExited, PatchProduced
from ridges.evaluator.errors import ProblemUnknown
from ridges.evaluator.handlers import Evaluations
from ridges.evaluator.patches import PatchLimits
from ridges.evaluator.problems.editions import Editions
from ridges.evaluator.publisher import Publisher
from ridges.evaluator.routes import on_log_unavailable, on_unknown_problem, problem_routes
from ridges.evaluator.settings import EvaluatorSettings
from ridges.evaluator.subscribers import EXITS_QUEUE, PATCHES_QUEUE, Subscribers

SERVICE = "evaluator"
_MANY = 1_000_000
"""The subscribers themselves end what cannot be judged, truthfully; parking would leave its run open for ever."""
_RETRY_DELAYS_S = (0.5, 2.0, 5.0, 10.0)


class Evaluator:
    """The wired parts."""

    def __init__(self, config: EvaluatorSettings, *, store: EventStore, blobs: BlobStore, clock: Clock) -> None:
        self._config, self._store, self._blobs, self._clock = config, store, blobs, clock
        self.publisher = Publisher(
            store=store, blobs=blobs, clock=clock, dirs=config.problems_dirs, rescan_s=config.rescan_s
        )
        limits = PatchLimits(max_bytes=config.max_patch_bytes, max_files=config.max_patch_files)
        self._subscribers = Subscribers(
            Evaluations(store=store, blobs=blobs, clock=clock, editions=Editions(blobs), patch_limits=limits)
        )
        self._draining, self._drained = asyncio.Event(), asyncio.Event()
        self._drained.set()

    def http(self) -> Litestar:
        """The HTTP application."""
        checks = {"log": self._store.ping, "blobs": self._blobs.ping, "problems": self.publisher.check}
        routes = problem_routes(
            self.publisher,
            store=self._store,
            blobs=self._blobs,
            clock=self._clock,
            check_wait_s=self._config.check_wait_s,
        )
        return Litestar(
            route_handlers=[*routes, *health_handlers(SERVICE, checks)],
            exception_handlers={
                **problems_http.exception_handlers,
                ProblemUnknown: on_unknown_problem,
                EventStoreUnavailable: on_log_unavailable,
            },
            openapi_config=OpenAPIConfig(
                title="Ridges evaluator",
                version="1",
                description="Problems and their checks.",
                path="/schema",
                render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            ),
            logging_config=None,
            pdb_on_exception=False,
            debug=False,
        )

    async def work(self) -> None:
        """Takes patches and reports until ``drain``."""
        policy = DeliveryPolicy(
            concurrency=self._config.evaluation_slots,
            ack_wait_s=self._config.ack_wait_s,
            max_deliver=_MANY,
            retry_delays_s=_RETRY_DELAYS_S,
        )
        consume, subscribers = self._store.consume, self._subscribers
        self._drained.clear()
        try:
            async with (
                consume(PATCHES_QUEUE, [PatchProduced], subscribers.on_patch_produced, policy) as patches,
                consume(EXITS_QUEUE, [EvaluationSandboxExited], subscribers.on_sandbox_exited, policy) as exits,
            ):
                await self._draining.wait()
                timeout_s = self._config.drain_timeout_s
                await asyncio.gather(patches.drain(timeout_s), exits.drain(timeout_s))
        finally:
            self._drained.set()

    async def drain(self) -> None:
        """Returns when nothing is in hand any more."""
        self._draining.set()
        await self._drained.wait()


def main() -> NoReturn:
    """Run the service until SIGTERM; ends the process."""
    serving.run(_main)


async def _main() -> None:
    config = settings.load(EvaluatorSettings)
    logs.configure(SERVICE, config.log_format, config.log_level)
    async with AsyncExitStack() as resources:
        blobs = _blobs(config)
        store = await resources.enter_async_context(
            open_event_store(
                config.nats_url,
                name=SERVICE,
                event_store_url=config.event_store_url,
                monitor_url=config.nats_monitor_url,
                user=config.nats_user,
                password=config.nats_password,
                allow_lossy=config.allow_lossy_log,
                log_epoch=config.log_epoch,
            )
        )
        evaluator = Evaluator(config, store=store, blobs=blobs, clock=SystemClock())
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, evaluator.publisher.rescan_soon)
        await serving.serve(
            evaluator.http(),
            host=config.http_host,
            port=config.http_port,
            background=(evaluator.publisher.run, evaluator.work),
            drain=evaluator.drain,
            drain_timeout_s=config.drain_timeout_s + 2,
        )


def _blobs(config: EvaluatorSettings) -> BlobStore:
    try:
        return open_blob_store(config.blobs_url)
    except BlobsUrlError as error:
        raise SettingsError(f"RIDGES_BLOBS_URL {error}") from error
