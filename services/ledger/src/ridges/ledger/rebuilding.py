"""Fresh tables beside the live ones, then in their place: reads never stop, nothing is lost or doubled."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing, suppress
from pathlib import Path

import structlog

from ridges.chassis.ports import EventStore, EventStoreUnavailable
from ridges.contracts.codec import UndecodableEvent
from ridges.contracts.views import Finding, PassProgress, PassResult
from ridges.ledger.errors import PassRunning, ProjectionStopped
from ridges.ledger.projections.apply import Projections
from ridges.ledger.projections.compare import Snapshots
from ridges.ledger.projections.schema import VERSION, open_projections, open_reader, remove, version_of
from ridges.ledger.projector import BATCH_EVENTS, Projector
from ridges.ledger.queries import Queries
from ridges.ledger.running_passes import Message, Passes, Source

log = structlog.get_logger(__name__)

NEAR_EVENTS = 500
"""So close to the end of the log, the rest is applied while the live tables wait."""
CAUGHT_UP_WITHIN_S = 30.0
UPGRADE_RETRY_S = 5.0


class Rebuilder:
    """Owns the swap of the tables."""

    def __init__(
        self,
        *,
        path: Path,
        store: EventStore,
        projections: Projections,
        queries: Queries,
        projector: Projector,
        passes: Passes,
    ) -> None:
        self._path, self._store, self._passes = path, store, passes
        self._projections, self._queries, self._projector = projections, queries, projector
        self._fresh_path = path.with_name("rebuilt-" + path.name)
        self._kept_path = path.with_name("differing-" + path.name)
        self._running = False

    @property
    def outdated(self) -> bool:
        """The tables are of another version: they can be read, but not continued."""
        return self._projector.held is not None

    @property
    def _following(self) -> bool:
        """The live tables follow the log."""
        return not self.outdated and self._projector.stopped is None

    async def upgrade(self) -> None:
        """Background work: bring tables of another version to this one; returns when that is done."""
        while self.outdated:
            try:
                async with aclosing(self.rebuild(verify=False)) as messages:
                    async for message in messages:
                        self._tell(message)
            except PassRunning:
                log.debug("somebody rebuilds already")
            if self.outdated:
                await asyncio.sleep(UPGRADE_RETRY_S)

    def refuse_second(self) -> None:
        """Raises PassRunning while one runs."""
        if self._running:
            raise PassRunning("rebuild")

    async def rebuild(self, *, verify: bool, source: Source = "log") -> AsyncGenerator[Message, None]:
        """Build, compare if asked, swap. Ends with the result.

        Raises:
            PassRunning: one at a time.

        """
        self.refuse_second()
        self._running = True
        try:
            async with aclosing(self._passes.rebuild(self._fresh_path, source)) as messages:
                async for message in messages:
                    if isinstance(message, PassProgress) or not message.ok:
                        yield message
                    if isinstance(message, PassResult) and message.ok:
                        yield await self._put_in_place(message, verify)
        finally:
            self._running = False
            remove(self._fresh_path)

    async def restore(self) -> AsyncGenerator[Message, None]:
        """Bring a lost log back from the archive; then the tables go on with it."""
        self.refuse_second()
        self._running = True
        try:
            async with aclosing(self._passes.restore()) as messages:
                async for message in messages:
                    if isinstance(message, PassResult) and message.ok and not self.outdated:
                        self._projector.go_on()
                    yield message
        finally:
            self._running = False

    async def _put_in_place(self, folded: PassResult, verify: bool) -> PassResult:
        fresh = Projections(open_projections(self._fresh_path))
        try:
            await self._approach(fresh)
            difference = await self._difference(fresh) if verify else None
            async with self._projector.paused():
                if self._following:
                    await self._catch_up(fresh, self._projector.position)
                fresh.close()
                if difference is not None:
                    self._keep()
                self._swap()
        except (EventStoreUnavailable, UndecodableEvent, ProjectionStopped, sqlite3.Error, TimeoutError) as error:
            summary = f"the tables were not swapped, the live ones stand: {error or type(error).__name__}"
            return PassResult(what="rebuild", ok=False, summary=summary, events=fresh.position, seconds=folded.seconds)
        finally:
            with suppress(sqlite3.Error):
                fresh.close()
        return self._result(folded, fresh.position, verify, difference)

    async def _approach(self, fresh: Projections) -> None:
        """Bring the fresh tables near the end of the log, and the live ones at least as far."""
        while (end := await self._store.last_position()) - fresh.position > NEAR_EVENTS:
            await self._catch_up(fresh, end)
        if self._following and not await self._projector.reached(fresh.position, CAUGHT_UP_WITHIN_S):
            raise TimeoutError(f"the live tables did not reach position {fresh.position} in time")

    async def _catch_up(self, fresh: Projections, until: int) -> None:
        batch = []
        if fresh.position >= until:
            return
        async with aclosing(self._store.read_all(fresh.position)) as events:  # type: ignore[type-var]
            async for recorded in events:
                batch.append(recorded)
                if len(batch) == BATCH_EVENTS or recorded.position >= until:
                    fresh.apply(batch)
                    batch = []
                if recorded.position >= until:
                    return

    async def _difference(self, fresh: Projections) -> str | None:
        """Compares both at one position, while the live tables go on; then the fresh ones follow them."""
        if not self._following:
            return f"the live tables cannot be compared: {self._projector.held or self._projector.stopped}"
        async with self._projector.paused():
            await self._catch_up(fresh, self._projector.position)
            snapshots = Snapshots(self._path, self._fresh_path)
        with closing(snapshots):
            difference = await asyncio.to_thread(snapshots.first_difference)
        await self._approach(fresh)
        return difference

    def _keep(self) -> None:
        with closing(sqlite3.connect(self._path)) as live, closing(sqlite3.connect(self._kept_path)) as kept:
            live.backup(kept)

    def _swap(self) -> None:
        """Without an await: nobody sees the tables closed."""
        if version_of(self._path) == VERSION:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as live:
                live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._projections.close()
        self._queries.close()
        try:
            for leftover in self._path.parent.glob(self._path.name + "-*"):
                leftover.unlink()
            self._fresh_path.replace(self._path)
        finally:
            self._projections.reopen(open_projections(self._path))
            self._queries.reopen(open_reader(self._path))
        self._projector.go_on()

    def _result(self, folded: PassResult, position: int, verify: bool, difference: str | None) -> PassResult:
        findings = []
        if difference is not None:
            findings.append(
                Finding(
                    kind="difference",
                    severity="error",
                    detail=f"{difference}; the old tables are kept in {self._kept_path}",
                )
            )
        proved = ", every row is the same as before" if verify and not findings else ""
        log.info("the tables were rebuilt and swapped", position=position, difference=difference)
        return PassResult(
            what="rebuild",
            ok=not findings,
            summary=f"{folded.summary}, swapped at position {position:,}{proved}",
            events=position,
            seconds=folded.seconds,
            findings=tuple(findings),
        )

    def _tell(self, message: Message) -> None:
        if isinstance(message, PassProgress):
            share = 100 * message.done // max(message.total, 1)
            self._projector.hold(f"the tables are being rebuilt to version {VERSION}: {share} %")
        elif not message.ok:
            log.error("the tables cannot be rebuilt", reason=message.summary)
            self._projector.hold(f"the tables cannot be rebuilt to version {VERSION}: {message.summary}")
