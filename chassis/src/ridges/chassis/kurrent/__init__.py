"""The event store on KurrentDB, with the stream EVENTS on NATS as its mirror."""

from ridges.chassis.kurrent.store import KurrentEventStore, open_kurrent_store

__all__ = ["KurrentEventStore", "open_kurrent_store"]
