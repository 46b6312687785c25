"""Writes to the mirror, only right behind the message that the writer believes to be its last."""

from collections.abc import Sequence

import msgspec
from kurrentdbclient import RecordedEvent
from nats.js.errors import APIError

from ridges.chassis.identity import MAX_EVENT_BYTES
from ridges.chassis.jetstream.connection import Connection, read_reply
from ridges.chassis.jetstream.grouping import mark_batch
from ridges.chassis.kurrent.names import (
    SOURCE_EVENT_ID,
    SOURCE_POSITION,
    SOURCE_REVISION,
    mirror_subject,
    stream_id_of,
)
from ridges.chassis.ports import EventStoreUnavailable, LogMismatch
from ridges.contracts.subjects import EVENTS_STREAM

EXPECTED_LAST = "Nats-Expected-Last-Sequence"
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})

MAX_MIRRORED_BYTES = MAX_EVENT_BYTES - 1024
"""The rest is for headers, which count as well."""


class LostRace(Exception):
    """The mirror's last message is another one by now."""


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """The mirror's last message and the event it holds."""

    sequence: int = 0
    stream_id: str = ""
    revision: int = -1
    event_id: str = ""
    commit_position: int = -1


EMPTY = Tail()


class MirrorWriter:
    """Knows nothing between calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def tail(self) -> Tail:
        """Where the mirror ends now.

        Raises:
            LogMismatch: its last message is not from a relay.
        """
        info = await self._connection.api(f"STREAM.INFO.{EVENTS_STREAM}")
        last = int(info["state"]["last_seq"])
        if not last:
            return EMPTY
        request = msgspec.json.encode({"seq": last})
        message = await self._connection.request(f"$JS.API.DIRECT.GET.{EVENTS_STREAM}", request)
        headers = message.headers or {}
        if "Status" in headers:
            raise EventStoreUnavailable(f"the mirror's message {last} cannot be read yet ({headers['Status']})")
        if SOURCE_POSITION not in headers:
            raise LogMismatch(
                f"message {last} of the stream EVENTS was not written by the relay. Take the permission to publish to "
                "ev.> away from whoever did, delete the stream EVENTS and run the migrate step: the relay fills it anew"
            )
        return Tail(
            sequence=last,
            stream_id=headers["Nats-Subject"].split(".")[1],
            revision=int(headers[SOURCE_REVISION]),
            event_id=headers[SOURCE_EVENT_ID],
            commit_position=int(headers[SOURCE_POSITION]),
        )

    async def write(self, events: Sequence[RecordedEvent], tail: Tail) -> Tail:
        """The new tail, once all of them are in the mirror right behind the old one. All or none.

        One atomic batch: a server that syncs every write takes 15 times as many so as one by one.

        Raises:
            LostRace: they are not; another relay was first.
            LogMismatch: the log has moved away.
        """
        headers = [_source_headers(event) for event in events]
        headers[0][EXPECTED_LAST] = str(tail.sequence)
        mark_batch(headers)
        try:
            await self._send(events, headers)
        except APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise LostRace from error
            await self._connection.check_here()
            raise
        except TimeoutError:
            raise EventStoreUnavailable(f"no answer from {self._connection.place.address}") from None
        last = events[-1]
        return Tail(
            sequence=tail.sequence + len(events),
            stream_id=stream_id_of(last.stream_name) or "",
            revision=last.stream_position,
            event_id=str(last.id),
            commit_position=last.commit_position,
        )

    async def _send(self, events: Sequence[RecordedEvent], headers: list[dict[str, str]]) -> None:
        """The first and the last wait for an answer; what happened to those between, the last one's answer tells."""
        for number, (event, of_one) in enumerate(zip(events, headers, strict=True), 1):
            subject = mirror_subject(stream_id_of(event.stream_name) or "", event.type)
            if 1 < number < len(events):
                await self._connection.client.publish(subject, event.data, headers=of_one)
                continue
            answer = await self._connection.request(subject, event.data, headers=of_one)
            if answer.data or number == len(events):
                read_reply(answer)


def _source_headers(event: RecordedEvent) -> dict[str, str]:
    return {
        SOURCE_POSITION: str(event.commit_position),
        SOURCE_REVISION: str(event.stream_position),
        SOURCE_EVENT_ID: str(event.id),
    }
