"""NATS names: streams, subjects, headers."""

EVENTS_STREAM = "EVENTS"
"""The log. Store and bus at once."""
INGRESS_STREAM = "INGRESS"
"""Requests that users publish themselves: a work queue, emptied by the ledger."""
PARKED_STREAM = "PARKED"
"""Messages a service gave up on, with the reason; ``ridges doctor`` shows them."""

ALL_EVENTS = "ev.>"
INGRESS_RUN_REQUESTED = "in.RunRequested"
INGRESS_RUN_CANCELLED = "in.RunCancelled"
ALL_INGRESS = "in.>"
ALL_PARKED = "park.>"

EVENT_ID_HEADER = "Nats-Msg-Id"
PROBLEM_STREAM_PREFIX = "problem-"


def event_subject(stream_id: str, event_type: str) -> str:
    """Where an event of a run (or of a problem) is published."""
    return f"ev.{stream_id}.{event_type}"


def run_filter(stream_id: str) -> str:
    """Matches every event of one run."""
    return f"ev.{stream_id}.>"


def type_filter(event_type: str) -> str:
    """Matches every event of one type."""
    return f"ev.*.{event_type}"


def parked_subject(queue: str, event_type: str) -> str:
    """Where a queue's undeliverable event is parked."""
    return f"park.{queue}.{event_type}"


def problem_stream_id(problem_id: str) -> str:
    """The stream id of a problem's own events."""
    return PROBLEM_STREAM_PREFIX + problem_id
