"""What every adapter demands of the events it is given, so that they all refuse the same."""

import re
from collections.abc import Sequence

from ridges.chassis.ports import EventRefused
from ridges.contracts.codec import UndecodableEvent, decode, encode
from ridges.contracts.events import Event, type_name

MAX_EVENT_BYTES = 256 * 1024
MAX_EVENTS = 1_000
"""In one append: what a NATS server takes as one atomic batch."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""One token of a NATS subject."""


def encoded(stream_id: str, events: Sequence[Event]) -> list[bytes]:
    """The events as JSON.

    Raises:
        EventRefused: nothing to append, too many, too large, an id twice, events of another stream, or
            fields that no reader could decode (constructors do not check types).
    """
    if not NAME.fullmatch(stream_id):
        raise EventRefused(f"{stream_id!r} cannot name a stream; use letters, digits, '-' and '_'")
    if not 1 <= len(events) <= MAX_EVENTS:
        raise EventRefused(f"{stream_id}: {len(events)} events in one append; give 1 to {MAX_EVENTS}")
    if len({event.id for event in events}) != len(events):
        raise EventRefused(f"{stream_id}: the same event id twice in one append; give each event its own")
    return [_encoded(stream_id, event) for event in events]


def _encoded(stream_id: str, event: Event) -> bytes:
    if event.run_id != stream_id:
        raise EventRefused(f"{stream_id}: {type_name(event)} has run_id {event.run_id!r}; append it to that stream")
    content = encode(event)
    if len(content) > MAX_EVENT_BYTES:
        raise EventRefused(
            f"{stream_id}: {type_name(event)} has {len(content)} bytes, at most {MAX_EVENT_BYTES} fit; "
            "put large contents into a blob"
        )
    try:
        decode(content)
    except UndecodableEvent as error:
        raise EventRefused(f"{stream_id}: {type_name(event)} could not be read again: {error}") from error
    return content
