"""The log's events for a pass, as they come in bulk."""

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.chassis.ports import Recorded
from ridges.contracts.codec import encode
from ridges.contracts.events import type_name
from ridges.contracts.subjects import event_subject


def raw_of(recorded: Recorded) -> RawEvent:
    """The event as it would come in bulk."""
    event = recorded.event
    return (recorded.position, event_subject(event.run_id, type_name(event)).encode(), b"", encode(event))
