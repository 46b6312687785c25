"""Names in KurrentDB and in the mirror."""

import re

from ridges.chassis.identity import NAME
from ridges.contracts.subjects import event_subject

STREAM_PREFIX = "run-"
"""Of every stream that holds our events. The relay mirrors streams of this prefix and no others."""

LOG_STREAM = "ridges-log"
"""Holds no events; its metadata say which store is the log of record, and its epoch."""

SOURCE_POSITION = "Ridges-Source-Position"
"""Header of a mirrored event: its commit position in KurrentDB."""
SOURCE_REVISION = "Ridges-Source-Revision"
"""Header of a mirrored event: its number in its KurrentDB stream, from 0."""
SOURCE_EVENT_ID = "Ridges-Source-Event-Id"
"""Header of a mirrored event: its id in KurrentDB. Not ``Nats-Msg-Id``, by which the server would judge: what the
mirror holds must not depend on a window of time.
"""


def stream_name(stream_id: str) -> str:
    """The KurrentDB stream of one of our streams."""
    return STREAM_PREFIX + stream_id


def stream_id_of(name: str) -> str | None:
    """The inverse; None for a stream that cannot be ours."""
    stream_id = name.removeprefix(STREAM_PREFIX)
    return stream_id if stream_id != name and NAME.fullmatch(stream_id) else None


def mirror_subject(stream_id: str, event_type: str) -> str:
    """Where the relay publishes an event. What is no NATS token in its type is replaced: nothing may be left out."""
    return event_subject(stream_id, re.sub(r"[^A-Za-z0-9_-]", "_", event_type) or "_")
