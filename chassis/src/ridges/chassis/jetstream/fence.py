"""What stands on the stream EVENTS when its log is moved to another store: who writes, who waits, and where it went.

A closed stream takes no message of any size: the server refuses each at once, also repetitions, batches that were
begun before, and clients that know nothing of this. Source: nats-server checks ``max_msg_size`` before all else.
"""

import re
from collections.abc import Mapping
from typing import Any

from ridges.chassis.jetstream.streams import EPOCH, EVENTS, LOG_OF_RECORD

ARRIVING = "arriving"
"""``log_of_record`` of a log that is being filled; nobody may write but who fills it."""
ABANDONED = "abandoned"
"""``log_of_record`` of a half that was given up."""
MOVING = "moving"
"""``log_of_record`` of a log that is closed while its last events are copied."""
MOVED = "moved"
"""``log_of_record`` of a log that another store has taken over."""

MIGRATION = "migration"
"""Metadata on both sides: which move it is."""
FROM_EPOCH = "from_epoch"
"""Metadata of the new log: the epoch of the old one."""
MOVED_TO = "moved_to"
"""Metadata of the old log: the address of the new one, without credentials."""
NEXT_EPOCH = "next_epoch"
"""Metadata of the old log: the epoch of the new one."""
OF_THE_MOVE = (MIGRATION, MOVED_TO, NEXT_EPOCH)

CLOSED: dict[str, Any] = {"max_msg_size": 1}
COMMAND = "ridges ledger migrate"


def open_again(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a closed stream had before."""
    return {key: EVENTS[key] if config["name"] == EVENTS["name"] else -1 for key in CLOSED}


def next_epoch(epoch: str) -> str:
    """``some-id`` -> ``some-id+1`` -> ``some-id+2``: the log keeps its name, its moves are counted."""
    counted = re.fullmatch(r"(.*)\+(\d+)", epoch)
    return f"{counted[1]}+{int(counted[2]) + 1}" if counted else f"{epoch}+1"


def refusal(metadata: Mapping[str, str], address: str) -> str | None:
    """Why this is no log to work with, and what to set; None when it is one (of whatever store)."""
    match metadata.get(LOG_OF_RECORD):
        case "moving":
            return (
                f"the log at {address} is being moved to {metadata.get(MOVED_TO)} and takes no more events; wait for "
                f"`{COMMAND}` to end (run it again when it was interrupted, or with --abort to stay here), then "
                f"{what_to_set(metadata)}"
            )
        case "moved":
            return (
                f"the log at {address} has moved to {metadata.get(MOVED_TO)} and takes no more events; "
                f"{what_to_set(metadata)}"
            )
        case "arriving" | "abandoned":
            return (
                f"the log at {address} is no log of record yet: `{COMMAND}` fills it and has not ended; run that "
                f"again, or point the service to the old log (epoch {metadata.get(FROM_EPOCH)})"
            )
    return None


def what_to_set(metadata: Mapping[str, str]) -> str:
    """The variables of a service that follows the log."""
    to, epoch = metadata.get(MOVED_TO, ""), metadata.get(NEXT_EPOCH, "")
    place = (
        f"RIDGES_EVENT_STORE_URL={to}"
        if to.startswith(("kurrentdb", "esdb", "kdb"))
        else f"RIDGES_NATS_URL={to} (without RIDGES_EVENT_STORE_URL)"
    )
    return f"set {place}, RIDGES_LOG_EPOCH={epoch} where it is set, and start again"


def epoch_of(metadata: Mapping[str, str]) -> str:
    """Empty where there is none."""
    return metadata.get(EPOCH, "")
