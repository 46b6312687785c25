"""Composition root of the gateway."""

import gc
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from litestar import Litestar

from ridges.chassis import logs
from ridges.chassis.blob_store import BlobsUrlError, open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.event_store import open_event_store
from ridges.chassis.health import Check, health_handlers
from ridges.chassis.ports import BlobStore, Clock, EventStore, EventStoreUnavailable
from ridges.chassis.serving import run, serve
from ridges.chassis.settings import SettingsError, load
from ridges.gateway.adapters import make_adapter
from ridges.gateway.appending import Appending
from ridges.gateway.attempts import Attempts
from ridges.gateway.call_log import CallLog
from ridges.gateway.contents import Contents
from ridges.gateway.contract_routes import contract_calls, contract_routes
from ridges.gateway.exact_paths import ExactPaths
from ridges.gateway.identity import Identity
from ridges.gateway.keyed_calls import KeyedCalls
from ridges.gateway.log_patience import LogPatience
from ridges.gateway.meters import Meters
from ridges.gateway.openai_routes import model_routes, openai_calls
from ridges.gateway.openapi import openapi_routes
from ridges.gateway.orphans import Orphans
from ridges.gateway.pipeline import CUT_S, Observer, Pipeline
from ridges.gateway.ports import ModelProvider, passed_on
from ridges.gateway.providers_config import ConfigError, ProvidersConfig, load_providers
from ridges.gateway.reloading import Reloading
from ridges.gateway.replies import exception_handlers
from ridges.gateway.reservations import Reservations
from ridges.gateway.roster import Roster
from ridges.gateway.run_states import RunStates
from ridges.gateway.settings import GatewaySettings
from ridges.gateway.settling import Settler
from ridges.gateway.tracing import Tracing, TracingUnavailable

log = structlog.get_logger(__name__)

GC_THRESHOLD = (10_000, 20, 50)
"""A call leaves no cycles behind: looking for them every 700 objects finds nothing and costs some percent."""


@dataclass(frozen=True)
class Gateway:
    """The wired parts that a process has to run."""

    http: ExactPaths
    states: RunStates
    pipeline: Pipeline
    calls: KeyedCalls
    roster: Roster
    background: tuple[Callable[[], Awaitable[None]], ...]
    """What must run beside the HTTP app."""


def wire_gateway(
    settings: GatewaySettings,
    config: ProvidersConfig,
    *,
    adapters: Mapping[str, ModelProvider],
    store: EventStore,
    blobs: BlobStore,
    clock: Clock,
    meters: Meters,
    rng: random.Random,
    tracing: Tracing | None = None,
) -> Gateway:
    """All parts, wired. Call within a running event loop; close the roster."""
    states = RunStates(store, settings.known_runs)
    appending = Appending(store, clock, meters.appended)
    settler = Settler(appending, states)
    roster = Roster(config, lambda provider: adapters[provider.name], clock, rng)
    contents = Contents(blobs, settings.contents)
    observers: tuple[Observer, ...] = (meters, CallLog(clock), *(() if tracing is None else (tracing,)))
    pipeline = Pipeline(
        states=states,
        reservations=Reservations(
            appending,
            states,
            settler,
            clock,
            wait_s=settings.budget_wait_s,
            longest_call_s=settings.call_deadline_s,
            gateway=settings.name,
            hedging=settings.hedge_after_s is not None,
        ),
        roster=roster,
        attempts=Attempts(roster, clock, stream_idle_s=settings.stream_idle_s, hedge_after_s=settings.hedge_after_s),
        settler=settler,
        contents=contents,
        observers=observers,
        clock=clock,
        patience=LogPatience(clock, settings.log_wait_s),
        call_deadline_s=settings.call_deadline_s,
        spans_of=passed_on if tracing is None else tracing.spans_of,
    )
    meters.watch(pipeline.in_flight, roster.queues)
    orphans = Orphans(store, states, settler, clock, gateway=settings.name, longest_call_s=settings.call_deadline_s)
    calls = KeyedCalls(pipeline, states, contents, clock, longest_call_s=settings.call_deadline_s)
    checks = {"event log": store.ping, "runs": _following(states), "blobs": contents.ping}
    http = _http(pipeline, calls, Identity(settings.token_key), checks)
    background = [states.follow, orphans.settle_recent]
    if hasattr(signal, "SIGHUP"):
        background.append(Reloading(settings.config, roster, make_adapter, meters).on_sighup)
    return Gateway(http, states, pipeline, calls, roster, tuple(background))


@asynccontextmanager
async def open_adapters(config: ProvidersConfig) -> AsyncIterator[dict[str, ModelProvider]]:
    """The adapter of each provider.

    Raises:
        ConfigError: a recording cannot be read.

    """
    async with AsyncExitStack() as stack:
        adapters: dict[str, ModelProvider] = {}
        for provider in config.providers:
            adapter = make_adapter(provider)
            stack.push_async_callback(adapter.close)
            adapters[provider.name] = adapter
        yield adapters


async def serve_gateway(settings: GatewaySettings) -> None:
    """Run the service until SIGTERM.

    Raises:
        SettingsError: settings, ridges.toml or the blobs URL cannot be used.

    """
    logs.configure("gateway", settings.log_format, settings.log_level)
    async with AsyncExitStack() as stack:
        try:
            config = load_providers(settings.config)
            adapters = await stack.enter_async_context(open_adapters(config))
            blobs = open_blob_store(settings.blobs_url)
            tracing = Tracing(SystemClock()) if settings.otel else None
        except (ConfigError, BlobsUrlError, TracingUnavailable) as error:
            raise SettingsError(str(error)) from error
        store = await stack.enter_async_context(
            open_event_store(
                settings.nats_url,
                name="gateway",
                event_store_url=settings.event_store_url,
                monitor_url=settings.nats_monitor_url,
                user=settings.nats_user,
                password=settings.nats_password,
                allow_lossy=settings.allow_lossy_log,
                log_epoch=settings.log_epoch,
            )
        )
        gateway = wire_gateway(
            settings,
            config,
            adapters=adapters,
            store=store,
            blobs=blobs,
            clock=SystemClock(),
            meters=Meters(),
            rng=random.Random(settings.choice_seed),  # noqa: S311 - spreads load, keeps no secret
            tracing=tracing,
        )
        stack.push_async_callback(gateway.roster.close)
        if tracing is not None:
            stack.callback(tracing.close)
        gc.set_threshold(*GC_THRESHOLD)
        log.info("gateway starts", providers=[provider.name for provider in config.providers], port=settings.http_port)
        await serve(
            gateway.http,
            host=settings.http_host,
            port=settings.http_port,
            background=gateway.background,
            drain=partial(gateway.pipeline.drain, settings.drain_timeout_s),
            drain_timeout_s=settings.drain_timeout_s + 3 * CUT_S,
            read_timeout_s=settings.read_timeout_s,
        )


def main() -> None:
    """Entry point of ``python -m ridges.gateway``."""
    run(lambda: serve_gateway(load(GatewaySettings)))


def _http(pipeline: Pipeline, calls: KeyedCalls, identity: Identity, checks: Mapping[str, Check]) -> ExactPaths:
    app = Litestar(
        route_handlers=[
            *contract_routes(pipeline, identity),
            *model_routes(pipeline),
            *openapi_routes(),
            *health_handlers("gateway", checks),
        ],
        exception_handlers=exception_handlers,
        openapi_config=None,
        logging_config=None,
    )
    return ExactPaths(app, contract_calls(pipeline, calls, identity) | openai_calls(calls, identity))


def _following(states: RunStates) -> Check:
    async def check() -> None:
        if not states.is_following():
            raise EventStoreUnavailable("the runs are not read yet: the event log does not answer")

    return check
