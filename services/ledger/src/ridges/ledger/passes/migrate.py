"""Move the whole log to another store: copy it while services write, close it, copy the rest, prove it, hand over.

All that a repetition needs to know stands in the two stores: how many events the new one holds, and what both say in
their metadata. So it can be killed anywhere and be run again.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ridges.chassis.jetstream.fence import next_epoch
from ridges.chassis.jetstream.place import Place
from ridges.chassis.moving.nats_server import NatsServer, administered
from ridges.chassis.moving.opening import is_kurrentdb, opened_source, opened_target
from ridges.chassis.moving.ports import CannotMove, Chain, Course, GivenUp, Half, LogEvent, Source, Target
from ridges.contracts.views import MigrationResult
from ridges.ledger.passes.moving_ingress import close_ingress, move_ingress, reopen_ingress
from ridges.ledger.passes.reporting import Pace, Report
from ridges.ledger.settings import MigrateSettings

SMALL_REST = 1_000
"""With no more events left to copy the old log is closed: that is how long services stand still."""
ROUNDS = 20
MEND = "set RIDGES_NATS_ADMIN_USER and RIDGES_NATS_ADMIN_PASSWORD to a user that may change streams"


async def migrate(config: MigrateSettings, report: Report, *, abort: bool = False) -> MigrationResult:
    """The result, once the new store is the log of record; with ``abort``, once the old one is again.

    Raises:
        CannotMove: why, and what to do. Running it again goes on where it stopped.
        SettingsError: a URL that cannot be used.
    """
    is_kurrentdb(config.migrate_to)
    old = Place(
        url=config.nats_url,
        name="ledger-migrate",
        user=config.nats_admin_user or config.nats_user,
        password=config.nats_admin_password if config.nats_admin_user else config.nats_password,
    )
    new = Place(
        url=config.migrate_to,
        name="ledger-migrate",
        monitor_url=config.target_nats_monitor_url,
        user=config.target_nats_user,
        password=config.target_nats_password,
        allow_lossy=config.allow_lossy_log,
    )
    async with (
        administered(old, MEND) as server,
        opened_source(server, config.event_store_url) as source,
        opened_target(new, config.target_stream_replicas) as (target, new_server),
    ):
        move = Migration(source, target, server, new_server, report)
        return await (move.abort() if abort else move.run())


class Migration:
    """One run of the command."""

    def __init__(
        self, source: Source, target: Target, server: NatsServer, new_server: NatsServer | None, report: Report
    ) -> None:
        self._source, self._target = source, target
        self._server, self._new_server = server, new_server
        self._report = report
        self._pace = Pace("migrate", "looking at both logs", 0, report)
        self._old, self._new = Chain(), Chain()

    async def run(self) -> MigrationResult:
        course = await self._source.course()
        epoch = next_epoch(course.epoch)
        if course.phase == "moved" and course.moved_to != self._target.address:
            raise CannotMove(f"the log has moved to {course.moved_to} already (epoch {epoch}); move it from there")
        if course.phase == "moving" and course.moved_to != self._target.address:
            raise CannotMove(
                f"the log is being moved to {course.moved_to}, not to {self._target.address}: go on with "
                f"--to {course.moved_to}, or give that up with --to {course.moved_to} --abort"
            )
        half = await self._target.begin(course, epoch)
        self._refuse_other_half(course, half)
        if not half.accepted:
            if course.phase == "here":
                count = await self._copy_while_open(half.count)
                await self._close(half, epoch)
            else:
                count = half.count
            await self._hand_over(half, count)
        if course.phase != "moved":
            await self._bring_requests()
            await self._source.depart(epoch)
        return self._result(epoch, copied=not half.accepted)

    async def abort(self) -> MigrationResult:
        """Stay with the old log."""
        course = await self._source.course()
        if course.phase == "moved":
            raise CannotMove(
                f"the log has moved to {course.moved_to}, services may write there: move it back from there"
            )
        if course.moved_to not in (None, self._target.address):
            raise CannotMove(f"the log is being moved to {course.moved_to}: name that with --to")
        await self._target.give_up(course)
        if course.phase == "moving":
            await reopen_ingress(self._server)
            await self._source.reopen()
        return MigrationResult(
            ok=True,
            summary=f"given up: the log stays at {self._source.address} (epoch {course.epoch})",
            events=0,
            seconds=round(self._pace.seconds, 3),
            moved_from=self._source.address,
            moved_to=None,
            epoch=course.epoch,
            digest=None,
            next_steps=("start the services that ended meanwhile",),
        )

    def _refuse_other_half(self, course: Course, half: Half) -> None:
        if course.migration not in (None, half.migration):
            raise CannotMove(
                f"{self._target.address} has lost what was copied there, or is another server of that name; give the "
                "move up with --abort, then begin anew"
            )
        if half.accepted and course.phase == "here":
            raise CannotMove(
                f"{self._target.address} took this log over already, but {self._source.address} is open again: was it "
                "restored from a backup? Point the services to the new one, and shut the old one down"
            )

    async def _copy_while_open(self, count: int) -> int:
        """All but a small rest, proved as far as that goes; how many are copied then."""
        for _ in range(ROUNDS):
            end = await self._source.end()
            await self._copy(count, end, "copying, services go on")
            await self._prove(end, "proving, services go on")
            count = end
            if await self._source.end() - end <= SMALL_REST:
                break
        return count

    async def _close(self, half: Half, epoch: str) -> None:
        """The old log, unless the move was given up while it was copied."""
        await self._source.close(half.migration, self._target.address, epoch)
        try:
            await self._target.check_wanted(half.migration)
        except GivenUp:
            if (await self._source.course()).migration == half.migration:
                await self._source.reopen()
            raise

    async def _hand_over(self, half: Half, count: int) -> None:
        """What is left, now that the old log is closed."""
        end = await self._source.end()
        await self._copy(count, end, "copying the rest, the log is closed")
        await self._prove(end, "proving, the log is closed")
        now = await self._source.course()
        if (now.phase, now.migration) != ("moving", half.migration):
            raise CannotMove(f"the log at {self._source.address} was opened or moved by somebody else meanwhile")
        await self._target.accept(half.migration)

    async def _bring_requests(self) -> None:
        """After the new log was accepted: nothing that waits there may be of a move that is given up later."""
        if self._new_server is not None:
            await close_ingress(self._server)
            await move_ingress(self._server, self._new_server)

    async def _copy(self, count: int, end: int, phase: str) -> None:
        if count > end:
            raise CannotMove(f"{self._target.address} holds {count:,} events, the log {end:,}: that is no half of it")
        pace = Pace("migrate", phase, end - count, self._report)
        async with aclosing(self._source.events(count, end)) as chunks:
            async for chunk in chunks:
                await self._target.write(count, chunk)
                count += len(chunk)
                pace.add(len(chunk))
        pace.report()

    async def _prove(self, end: int, phase: str) -> None:
        """Read both and compare: id, type, run, payload and order of every event that was not compared yet."""
        pace = Pace("migrate", phase, end - self._old.count, self._report)
        start = self._old.count
        async with (
            aclosing(self._source.events(start, end)) as old,
            aclosing(self._target.events(start, end)) as new,
        ):
            kept = _flat(new)
            async for chunk in old:
                for event in chunk:
                    self._old.add(event)
                    copy = await anext(kept, None)
                    if copy is None or _told(copy) != _told(event):
                        raise CannotMove(self._different(event, copy))
                    self._new.add(copy)
                pace.add(len(chunk))
        pace.report()
        if not (self._old.count == self._new.count == end and self._old.digest == self._new.digest):
            raise CannotMove(f"{self._new.count:,} of {end:,} events are at {self._target.address}: run it again")

    def _different(self, event: LogEvent, copy: LogEvent | None) -> str:
        found = "nothing" if copy is None else f"event {copy.event_id} ({copy.type} of {copy.stream_id})"
        return (
            f"position {event.position}: the log has event {event.event_id} ({event.type} of {event.stream_id}), "
            f"{self._target.address} has {found}: that is no copy. Give it up with --abort, then use an empty store"
        )

    def _result(self, epoch: str, *, copied: bool) -> MigrationResult:
        count = f"{self._old.count:,} events, proved: " if copied else ""
        return MigrationResult(
            ok=True,
            summary=f"{count}the log is at {self._target.address} now (epoch {epoch})",
            events=self._old.count,
            seconds=round(self._pace.seconds, 3),
            moved_from=self._source.address,
            moved_to=self._target.address,
            epoch=epoch,
            digest=self._old.digest if copied else None,
            next_steps=self._next_steps(epoch),
        )

    def _next_steps(self, epoch: str) -> tuple[str, ...]:
        pinned = f"RIDGES_LOG_EPOCH={epoch} where it is set"
        to, mirror = self._target.address, self._server.place.address
        if self._new_server is not None:
            return (
                f"start every service with RIDGES_NATS_URL={to}, its RIDGES_NATS_MONITOR_URL and {pinned}",
                f"clients that publish requests connect to {to}; the old server refuses them",
            )
        mend = f"RIDGES_EVENT_STORE_URL={to} python -m ridges.chassis.migrate --replace-moved-log"
        return (
            "stop the services",
            f"make the stream EVENTS at {mirror} the mirror: {mend}",
            f"start every service with RIDGES_EVENT_STORE_URL={to}; {pinned}",
        )


def _told(event: LogEvent) -> tuple[str, str, str, bytes]:
    return (event.event_id, event.type, event.stream_id, event.content)


async def _flat(chunks: AsyncGenerator[Sequence[LogEvent], None]) -> AsyncGenerator[LogEvent, None]:
    async for chunk in chunks:
        for event in chunk:
            yield event
