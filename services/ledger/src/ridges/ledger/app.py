"""Composition root: wires the ledger and runs it."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from uuid import uuid4

from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from ridges.chassis import logs, serving, settings
from ridges.chassis.blob_store import BlobsUrlError, open_blob_store
from ridges.chassis.clock import SystemClock
from ridges.chassis.event_store import open_event_store, relay_of
from ridges.chassis.health import Check, health_handlers
from ridges.chassis.ports import Clock, EventStore, NamedBlobStore
from ridges.chassis.settings import SettingsError
from ridges.ledger import queries as reading
from ridges.ledger import refusals as refusing
from ridges.ledger.details import RunDetails
from ridges.ledger.examiner import AgentExaminer
from ridges.ledger.handlers import RunRequests
from ridges.ledger.ingress import Ingress
from ridges.ledger.price_publishing import PriceLists
from ridges.ledger.projections import apply
from ridges.ledger.projections.apply import Projections
from ridges.ledger.projections.schema import is_outdated
from ridges.ledger.projector import Projector
from ridges.ledger.queries import Queries
from ridges.ledger.rebuilding import Rebuilder
from ridges.ledger.refusals import Refusals
from ridges.ledger.routes.accounts import account_routes
from ridges.ledger.routes.admin import admin_routes
from ridges.ledger.routes.batches import batch_routes
from ridges.ledger.routes.blobs import blob_routes
from ridges.ledger.routes.failures import exception_handlers
from ridges.ledger.routes.guard import guard
from ridges.ledger.routes.prices import price_routes
from ridges.ledger.routes.run_files import run_file_routes
from ridges.ledger.routes.runs import run_routes
from ridges.ledger.routes.streams import stream_routes
from ridges.ledger.running_passes import Archiver, ChildPasses, Passes, ThreadPasses
from ridges.ledger.settings import LedgerSettings
from ridges.ledger.settle import Settler
from ridges.ledger.stream import Hub
from ridges.ledger.web.site import site_routes

SERVICE = "ledger"
API_VERSION = "1"
TABLES = "projections.sqlite"


class Ledger:
    """The wired parts, without the ingress (which needs a NATS server)."""

    def __init__(
        self,
        config: LedgerSettings,
        *,
        store: EventStore,
        blobs: NamedBlobStore,
        clock: Clock,
        projections: Projections,
        queries: Queries,
        refusals: Refusals,
        passes: Passes | None = None,
        filling: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._store, self._blobs = config, store, blobs
        self._queries, self._refusals = queries, refusals
        self.hub = Hub()
        path = config.state_dir / TABLES
        self.projector = Projector(store, projections, self.hub, path=str(path), filling=filling)
        queries.before_reading = self.projector.catch_up
        if is_outdated(path):
            self.projector.hold("the tables are of another version; they are being rebuilt")
        self.passes = passes or ThreadPasses(store, blobs, clock, config.settle_grace_s)
        self.rebuilder = Rebuilder(
            path=path,
            store=store,
            projections=projections,
            queries=queries,
            projector=self.projector,
            passes=self.passes,
        )
        self.archiver = Archiver(self.passes)
        self.settler = Settler(store=store, queries=queries, clock=clock, grace_s=config.settle_grace_s)
        self.price_lists = PriceLists(store=store, clock=clock)
        self.requests = RunRequests(
            store=store,
            blobs=blobs,
            clock=clock,
            find_problem=queries.problem,
            examine_agent=AgentExaminer(),
            # Not UUIDv7: runs of the same minute would share the beginning that people type.
            new_run_id=lambda: str(uuid4()),
        )

    def http(self, checks: dict[str, Check]) -> Litestar:
        """The HTTP application; the checks are for /readyz, beside the ledger's own."""
        details = RunDetails(queries=self._queries, store=self._store, blobs=self._blobs)
        own = {"log": self._store.ping, "blobs": self._blobs.ping, "projection": self.projector.check}
        return Litestar(
            route_handlers=[
                *run_routes(self.requests, self._queries, details, self.projector),
                *run_file_routes(self._queries, details),
                *stream_routes(self._queries, self.hub),
                *account_routes(self._queries, self._refusals, self._store),
                *blob_routes(self._blobs),
                *batch_routes(self.requests, self._queries, self.projector),
                *price_routes(self.price_lists, self._queries),
                *admin_routes(self.rebuilder, self.passes, self.archiver, self.settler),
                *site_routes(self._queries, details),
                *health_handlers(SERVICE, own | checks),
            ],
            guards=[guard(self._config)],
            exception_handlers=exception_handlers,
            openapi_config=OpenAPIConfig(
                title="Ridges ledger",
                version=API_VERSION,
                description="Runs, token usage and costs, computed from the log.",
                components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
                security=[{"token": []}, {}],
                path="/schema",
                render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            ),
            logging_config=None,
            pdb_on_exception=False,
            debug=False,
        )


async def run() -> None:
    """Serve until a signal ends the service."""
    config = settings.load(LedgerSettings)
    logs.configure(SERVICE, config.log_format, config.log_level)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        blobs = _blobs(config)
        store = await stack.enter_async_context(
            open_event_store(
                config.nats_url,
                name=SERVICE,
                event_store_url=config.event_store_url,
                monitor_url=config.nats_monitor_url,
                user=config.nats_user,
                password=config.nats_password,
                relay_user=config.nats_relay_user,
                relay_password=config.nats_relay_password,
                allow_lossy=config.allow_lossy_log,
                log_epoch=config.log_epoch,
            )
        )
        relay = relay_of(store)
        path = config.state_dir / TABLES
        refusals = stack.enter_context(refusing.opened(config.state_dir / "refusals.sqlite"))
        ledger = Ledger(
            config,
            store=store,
            blobs=blobs,
            clock=clock,
            projections=stack.enter_context(apply.opened(path)),
            queries=stack.enter_context(reading.opened(path)),
            refusals=refusals,
            passes=ChildPasses(),
            filling=lambda: relay is not None and not relay.complete,
        )
        ingress = Ingress(
            url=config.nats_url,
            user=config.nats_user,
            password=config.nats_password,
            requests=ledger.requests,
            refusals=refusals,
            clock=clock,
        )

        checks: dict[str, Check] = {"ingress": ingress.check}
        background = [ledger.projector.run, ledger.rebuilder.upgrade, ledger.settler.run, ingress.run]
        if config.archive_every_s is not None:
            background.append(partial(ledger.archiver.run, config.archive_every_s))
        if relay is not None:
            checks["relay"] = relay.check
            background.append(relay.run)

        async def drain() -> None:
            ledger.hub.close()
            await ingress.stop()

        await serving.serve(
            ledger.http(checks),
            host=config.http_host,
            port=config.http_port,
            background=background,
            drain=drain,
            drain_timeout_s=config.drain_timeout_s,
        )


def _blobs(config: LedgerSettings) -> NamedBlobStore:
    try:
        return open_blob_store(config.blobs_url)
    except BlobsUrlError as error:
        raise SettingsError(f"RIDGES_BLOBS_URL {error}") from error


def main() -> None:
    serving.run(run)
