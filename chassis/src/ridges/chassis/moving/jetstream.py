"""A log on JetStream that moves away, or that another one moves to."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from ridges.chassis.jetstream import fence
from ridges.chassis.jetstream.connection import read_reply
from ridges.chassis.jetstream.grouping import LARGEST_BATCH, LARGEST_BATCH_BYTES, mark_batch
from ridges.chassis.jetstream.streams import EPOCH, EVENTS, LOG_OF_RECORD, RECORDED_HERE, STREAMS, differences
from ridges.chassis.jetstream.verify import NotYet, check_sync
from ridges.chassis.moving.decision import Decisions
from ridges.chassis.moving.nats_server import NatsServer, log_events
from ridges.chassis.moving.ports import CannotMove, Course, GivenUp, Half, LogEvent
from ridges.chassis.ports import LogMismatch
from ridges.contracts.subjects import EVENT_ID_HEADER, EVENTS_STREAM, event_subject

EXPECTED_LAST = "Nats-Expected-Last-Sequence"
NEVER_LAST = str(2**62)
WRITE_S = 10.0
"""For a batch: in a cluster its leader may be gone, and the answer with it."""
TOO_LARGE = 10054
WRONG_LAST = frozenset({10071, 10164})
DUPLICATE = 10201


class JetStreamSource:
    """The stream EVENTS as the old store; also as the mirror of an old store, through which all acknowledgements go."""

    def __init__(self, server: NatsServer, record: str = RECORDED_HERE) -> None:
        """``record``: what an open log says in ``log_of_record``."""
        self._server, self._record = server, record
        self.address = server.place.address

    async def course(self) -> Course:
        config = (await self._server.events_stream())["config"]
        metadata = config.get("metadata") or {}
        record = metadata.get(LOG_OF_RECORD)
        if record == self._record:
            self._refuse_copies(config)
            return Course(epoch=fence.epoch_of(metadata), phase="here")
        if record in (fence.MOVING, fence.MOVED):
            return Course(
                epoch=fence.epoch_of(metadata),
                phase=record,
                migration=metadata.get(fence.MIGRATION),
                moved_to=metadata.get(fence.MOVED_TO),
            )
        raise CannotMove(
            f"the stream {EVENTS_STREAM} at {self.address} is not the log that is configured here: it says "
            f"log_of_record = {record!r}, not {self._record!r}; mend RIDGES_NATS_URL or RIDGES_EVENT_STORE_URL"
        )

    def _refuse_copies(self, config: dict[str, Any]) -> None:
        if config.get("num_replicas", 1) > 1:
            raise CannotMove(
                f"the stream {EVENTS_STREAM} has {config['num_replicas']} replicas: events that their leader has "
                "accepted could be stored after the log was closed. Run RIDGES_STREAM_REPLICAS=1 "
                "python -m ridges.chassis.migrate, then this again"
            )

    async def end(self) -> int:
        found = await self._server.events_stream()
        return int(found["state"]["last_seq"])

    def events(self, after: int, until: int) -> AsyncGenerator[Sequence[LogEvent], None]:
        return log_events(self._server.place, after, until)

    async def close(self, migration: str, moved_to: str, next_epoch: str) -> None:
        of_the_move = {fence.MIGRATION: migration, fence.MOVED_TO: moved_to, fence.NEXT_EPOCH: next_epoch}
        await self._declare({LOG_OF_RECORD: fence.MOVING} | of_the_move, fence.CLOSED, where=(self._record,))
        await self._prove_closed()

    async def _prove_closed(self) -> None:
        """One goroutine of the server takes a stream's messages one after another: when it has refused ours, all that
        came before are stored or refused, and all that come later are refused.
        """
        answer = await self._server.ask(
            event_subject("closed", "Probe"), b"closed?", {EXPECTED_LAST: NEVER_LAST}
        )  # which could not be stored in an open log either
        try:
            read_reply(answer)
        except APIError as error:
            if error.err_code == TOO_LARGE:
                return
            raise CannotMove(
                f"the log at {self.address} does not close ({error.description}); does another process change the "
                f"stream {EVENTS_STREAM}?"
            ) from error
        raise CannotMove(f"the log at {self.address} does not close: it took a message")

    async def depart(self, next_epoch: str) -> None:
        told = {LOG_OF_RECORD: fence.MOVED, fence.NEXT_EPOCH: next_epoch}
        await self._declare(told, fence.CLOSED, where=(fence.MOVING, fence.MOVED))

    async def reopen(self) -> None:
        config = (await self._server.events_stream())["config"]
        gone = dict.fromkeys(fence.OF_THE_MOVE)
        await self._declare(
            {LOG_OF_RECORD: self._record} | gone, fence.open_again(config), where=(fence.MOVING, self._record)
        )

    async def _declare(self, metadata: dict[str, Any], settings: dict[str, Any], where: Sequence[str]) -> None:
        """``where``: what the log may say of itself just before."""
        config = (await self._server.events_stream())["config"]
        found = config.get("metadata") or {}
        if found.get(LOG_OF_RECORD) not in where:
            raise CannotMove(f"the log at {self.address} was opened, closed or moved by somebody else meanwhile")
        self._refuse_copies(config)
        told = {key: value for key, value in (found | metadata).items() if value is not None}
        await self._server.change(EVENTS_STREAM, config | settings | {"metadata": told})


class JetStreamTarget:
    """The stream EVENTS of a server that becomes the log of record."""

    def __init__(self, server: NatsServer, *, allow_lossy: bool, replicas: int | None = None) -> None:
        """``replicas``: copies of each stream; None: as many as it has, one where it is new."""
        self._server, self._allow_lossy, self._replicas = server, allow_lossy, replicas
        self._decisions = Decisions(server)
        self.address = server.place.address

    async def begin(self, course: Course, next_epoch: str) -> Half:
        await self._check_sync()
        found = await self._server.stream()
        if found is None:
            await self._declare(None, EVENTS | {"metadata": self._identity(course, next_epoch)})
        elif self._is_free(found):
            metadata = (found["config"].get("metadata") or {}) | self._identity(course, next_epoch)
            await self._declare(found["config"], EVENTS | {"metadata": metadata})
        found = await self._server.events_stream()
        self._refuse_foreign(found, course, next_epoch)
        migration = found["config"]["metadata"][fence.MIGRATION]
        await self._declare_others()
        await self.check_wanted(migration)
        return Half(
            migration=migration,
            count=int(found["state"]["last_seq"]),
            accepted=found["config"]["metadata"][LOG_OF_RECORD] == RECORDED_HERE,
        )

    async def _declare_others(self) -> None:
        """The queue of requests may be closed: another log has moved away from this server once."""
        for config in STREAMS:
            if config["name"] == EVENTS_STREAM:
                await self._declare((await self._server.events_stream())["config"], {})
                continue
            found = await self._server.stream(config["name"])
            if found is None:
                await self._declare(None, config)
                continue
            closed = found["config"].get("max_msg_size") == fence.CLOSED["max_msg_size"]
            await self._declare(found["config"], fence.open_again(found["config"]) if closed else {})
        await self._decisions.declare(self._replicas or 1)

    async def _declare(self, found: dict[str, Any] | None, settings: dict[str, Any]) -> None:
        """Create a stream, or change what was found of it, with as many copies as are asked for."""
        copies = {} if self._replicas is None else {"num_replicas": self._replicas}
        wanted = (found or {}) | settings | copies
        if wanted == found:
            return
        try:
            if found is None:
                await self._server.api(f"STREAM.CREATE.{wanted['name']}", wanted)
            else:
                await self._server.change(wanted["name"], wanted)
        except CannotMove as error:
            if self._replicas in (None, 1):
                raise
            raise CannotMove(
                f"{error}. RIDGES_TARGET_STREAM_REPLICAS asks for {self._replicas} copies of each stream: name "
                f"a cluster with at least {self._replicas} servers that are up, or ask for fewer; nothing was closed"
            ) from error

    async def check_wanted(self, migration: str) -> None:
        if await self._decisions.found(migration) == "given up":
            raise GivenUp(f"the move to {self.address} was given up; end that first: `{fence.COMMAND}` with --abort")

    async def _check_sync(self) -> None:
        if self._allow_lossy:
            return
        try:
            await check_sync(self._server.place.monitor_url)
        except (LogMismatch, NotYet) as error:
            told = str(error).replace("RIDGES_NATS_MONITOR_URL", "RIDGES_TARGET_NATS_MONITOR_URL")
            raise CannotMove(f"the target {self.address}: {told}") from error

    @staticmethod
    def _is_free(found: dict[str, Any]) -> bool:
        """An empty log of its own, which the migrate step has declared."""
        metadata = found["config"].get("metadata") or {}
        return (
            not found["state"]["last_seq"]
            and metadata.get(LOG_OF_RECORD, RECORDED_HERE) == RECORDED_HERE
            and fence.MIGRATION not in metadata
        )

    @staticmethod
    def _identity(course: Course, next_epoch: str) -> dict[str, str]:
        return {
            LOG_OF_RECORD: fence.ARRIVING,
            EPOCH: next_epoch,
            fence.FROM_EPOCH: course.epoch,
            fence.MIGRATION: str(uuid4()),
        }

    def _refuse_foreign(self, found: dict[str, Any], course: Course, next_epoch: str) -> None:
        metadata, last = found["config"].get("metadata") or {}, found["state"]["last_seq"]
        record, epoch = metadata.get(LOG_OF_RECORD), fence.epoch_of(metadata)
        ours = (metadata.get(fence.FROM_EPOCH), epoch) == (course.epoch, next_epoch)
        if ours and record in (fence.ARRIVING, RECORDED_HERE):
            wrong = differences(found["config"], EVENTS)
            if wrong:
                raise CannotMove(f"the stream {EVENTS_STREAM} at {self.address} is set wrong: {'; '.join(wrong)}")
            return
        if epoch == course.epoch:
            raise CannotMove(f"{self.address} is the log itself (epoch {epoch}); --to names another server")
        if record == "kurrentdb":
            raise CannotMove(
                f"the stream {EVENTS_STREAM} at {self.address} is the mirror of a KurrentDB, and a server has one "
                "stream of that name: name another NATS server"
            )
        raise CannotMove(
            f"the target {self.address} is not empty: its stream {EVENTS_STREAM} holds {last:,} events of another log "
            f"(log_of_record = {record!r}, epoch {epoch}). Name an empty server, or delete that stream if nobody needs "
            "it (nats stream rm EVENTS)"
        )

    async def write(self, after: int, events: Sequence[LogEvent]) -> None:
        at = 0
        while at < len(events):
            batch = _fitting(events, at)
            await self._write_batch(after + at, batch)
            at += len(batch)

    async def _write_batch(self, after: int, events: Sequence[LogEvent]) -> None:
        headers = [{EVENT_ID_HEADER: event.event_id} for event in events]
        headers[0][EXPECTED_LAST] = str(after)
        mark_batch(headers)
        try:
            stored = await self._send(events, headers)
        except APIError as error:
            raise CannotMove(self._explained(error, after, events)) from error
        if stored.get("duplicate") or stored["seq"] != after + len(events):
            raise CannotMove(self._twice(after, events))

    async def _send(self, events: Sequence[LogEvent], headers: list[dict[str, str]]) -> dict[str, Any]:
        """The answer to the last one, which speaks for all."""
        for number, (event, of_one) in enumerate(zip(events, headers, strict=True), 1):
            subject = event_subject(event.stream_id, event.type)
            if 1 < number < len(events):
                try:
                    await self._server.client.publish(subject, event.content, headers=of_one)
                except (NatsError, OSError) as error:
                    raise CannotMove(
                        f"the connection to {self.address} broke ({error}); run the same command: it goes on"
                    ) from error
                continue
            answer = await self._server.ask(subject, event.content, of_one, WRITE_S)
            if answer.data or number == len(events):
                stored = read_reply(answer)
        return stored

    def _explained(self, error: APIError, after: int, events: Sequence[LogEvent]) -> str:
        if error.err_code == DUPLICATE:
            return self._twice(after, events)
        if error.err_code in WRONG_LAST:
            return (
                f"somebody else writes to {self.address}: it does not end at position {after} any more. When no other "
                f"`{fence.COMMAND}` runs, run the same command: it goes on"
            )
        return f"{self.address} refuses the event at position {after + 1} or one of the next: {error.description}"

    def _twice(self, after: int, events: Sequence[LogEvent]) -> str:
        return (
            f"an id of the events at {after + 1} to {after + len(events)} stands in the log before, and {self.address} "
            "takes an id once; `ridges ledger verify` names it. `--abort` stays with the old log"
        )

    def events(self, after: int, until: int) -> AsyncGenerator[Sequence[LogEvent], None]:
        return log_events(self._server.place, after, until)

    async def accept(self, migration: str) -> None:
        if await self._decisions.decide(migration, "accepted") != "accepted":
            raise GivenUp(f"the move to {self.address} was given up meanwhile")
        config = (await self._server.events_stream())["config"]
        if config["metadata"].get(fence.MIGRATION) != migration:
            raise CannotMove(f"the stream {EVENTS_STREAM} at {self.address} was replaced meanwhile: given up?")
        await self._server.change(
            EVENTS_STREAM, config | {"metadata": config["metadata"] | {LOG_OF_RECORD: RECORDED_HERE}}
        )

    async def give_up(self, course: Course) -> None:
        """Deletes the half: changing a stream that is gone fails, so nobody can fill it."""
        found = await self._server.stream()
        metadata = {} if found is None else found["config"].get("metadata") or {}
        if found is None or metadata.get(fence.FROM_EPOCH) != course.epoch:
            return
        accepted = metadata.get(LOG_OF_RECORD) != fence.ARRIVING
        if not accepted:
            await self._decisions.declare()
            accepted = await self._decisions.decide(metadata[fence.MIGRATION], "given up") == "accepted"
        if accepted:
            raise CannotMove(
                f"the log is at {self.address} since epoch {fence.epoch_of(metadata)}, services may write there: run "
                f"`{fence.COMMAND}` once more without --abort, it marks the old log as moved"
            )
        with suppress(NotFoundError):  # by the try before, whose answer was lost
            await self._server.api(f"STREAM.DELETE.{EVENTS_STREAM}")


def _fitting(events: Sequence[LogEvent], at: int) -> Sequence[LogEvent]:
    size, end = 0, at
    while end < len(events) and end - at < LARGEST_BATCH:
        size += len(events[end].content)
        if size > LARGEST_BATCH_BYTES and end > at:
            break
        end += 1
    return events[at:end]
