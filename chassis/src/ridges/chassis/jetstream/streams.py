"""The streams as they must be."""

from typing import Any

from ridges.contracts.subjects import (
    ALL_EVENTS,
    ALL_INGRESS,
    ALL_PARKED,
    EVENTS_STREAM,
    INGRESS_STREAM,
    PARKED_STREAM,
)

NS_PER_S = 1_000_000_000
KIB = 1024

LOG_OF_RECORD = "log_of_record"
"""Metadata of the stream EVENTS: which store is the truth."""
RECORDED_HERE = "jetstream"
RECORDED_IN_KURRENTDB = "kurrentdb"
"""Then the stream EVENTS is a mirror, written by the relay alone."""
EPOCH = "epoch"
"""Metadata of the stream EVENTS: changes when the log is started anew; positions of the old one mean nothing then."""

DUPLICATE_WINDOW_S = 600
MAX_EVENT_BYTES = 256 * KIB

UNLIMITED: dict[str, Any] = {"max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1}

EVENTS: dict[str, Any] = {
    "name": EVENTS_STREAM,
    "subjects": [ALL_EVENTS],
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "deny_delete": True,
    "deny_purge": True,
    "allow_direct": True,
    "allow_atomic": True,
    "duplicate_window": DUPLICATE_WINDOW_S * NS_PER_S,
    "max_msg_size": MAX_EVENT_BYTES,
    **UNLIMITED,
}

INGRESS: dict[str, Any] = {
    "name": INGRESS_STREAM,
    "subjects": [ALL_INGRESS],
    "storage": "file",
    "retention": "workqueue",
    "discard": "new",
    "allow_direct": True,
    "duplicate_window": DUPLICATE_WINDOW_S * NS_PER_S,
    "max_msgs": 100_000,
    "max_bytes": 512 * 1024 * KIB,
}

PARKED: dict[str, Any] = {
    "name": PARKED_STREAM,
    "subjects": [ALL_PARKED],
    "storage": "file",
    "retention": "limits",
    "discard": "old",
    "allow_direct": True,
    "duplicate_window": DUPLICATE_WINDOW_S * NS_PER_S,
    "max_msgs": 10_000,
    "max_bytes": 256 * 1024 * KIB,
}

STREAMS = (EVENTS, INGRESS, PARKED)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is set otherwise than wanted, as text for people."""
    return [
        f"{key} is {found.get(key)!r}, must be {value!r}"
        for key, value in wanted.items()
        if (found.get(key) or None) != (value or None)
    ]
