"""The event store on KurrentDB, with the stream EVENTS on NATS as its mirror."""

import os

# gRPC reads it when it is imported; otherwise it starts its threads in forked children too, and some die of that
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from ridges.chassis.kurrent.store import KurrentEventStore, open_kurrent_store

__all__ = ["KurrentEventStore", "open_kurrent_store"]
