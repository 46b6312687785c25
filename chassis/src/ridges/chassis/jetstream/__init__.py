"""The event store on NATS JetStream."""

from ridges.chassis.jetstream.store import JetStreamEventStore, open_event_store

__all__ = ["JetStreamEventStore", "open_event_store"]
