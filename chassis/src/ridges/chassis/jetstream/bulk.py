"""Read the whole stream EVENTS as fast as one core goes: a blocking reader, for passes over the log."""

import time
from collections.abc import Iterator

from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.streams import NS_PER_S
from ridges.chassis.jetstream.wire import Lost, Wire
from ridges.chassis.jetstream.wire import RawEvent as RawEvent  # noqa: PLC0414 - what this gives
from ridges.chassis.ports import EventRefused, EventStoreUnavailable
from ridges.contracts.subjects import EVENTS_STREAM

PULL = 4_000
PULLS_IN_FLIGHT = 3
PULL_EXPIRES_S = 30
PATIENCE_S = 30.0
RETRY_PAUSE_S = 0.3


def last_position(place: Place) -> int:
    """Position of the newest event; 0 for an empty log. Raises like ``raw_events``."""
    with Wire(place) as wire:
        return int(wire.api(f"STREAM.INFO.{EVENTS_STREAM}", {})["state"]["last_seq"])


def raw_events(place: Place, after: int, until: int) -> Iterator[list[RawEvent]]:
    """The messages after a position up to another one, in order, in chunks as they arrive; survives reconnections.

    Raises:
        EventStoreUnavailable: nothing came for half a minute.
        EventRefused: this user may not read the log, it was replaced by another one meanwhile, or the URL is for
            something else than NATS over TCP or TLS.
    """
    position, give_up = after, time.monotonic() + PATIENCE_S
    epoch = place.log_epoch
    while position < until:
        try:
            with Wire(place) as wire:
                found = wire.epoch()
                if epoch not in (None, found):
                    raise EventRefused(
                        f"the log at {place.address} has the epoch {found} instead of {epoch}: it is another one, or "
                        f"was replaced while it was read. What was read up to position {position} means nothing there"
                    )
                epoch = found
                for chunk in _chunks(wire, position + 1, until):
                    if chunk:
                        position = chunk[-1][0]
                        wanted = chunk if position <= until else [event for event in chunk if event[0] <= until]
                        if wanted:
                            yield wanted
                        give_up = time.monotonic() + PATIENCE_S  # what the reader does with a chunk takes its time
        except OSError as error:
            if time.monotonic() > give_up:
                raise EventStoreUnavailable(
                    f"reading the log stopped after position {position}: {error or type(error).__name__}"
                ) from error
            time.sleep(RETRY_PAUSE_S)
        else:
            if position < until and time.monotonic() > give_up:
                raise EventStoreUnavailable(
                    f"the log ends at position {position}, before {until}: nats-server cannot read what follows"
                )


def _chunks(wire: Wire, first: int, until: int) -> Iterator[list[RawEvent]]:
    """From a position on to ``until`` at least; the last chunk may go beyond it."""
    consumer = wire.consume("bulk", first)
    pull = {"batch": PULL, "expires": PULL_EXPIRES_S * NS_PER_S}
    try:
        if not consumer.pending:
            return
        for _ in range(PULLS_IN_FLIGHT):
            consumer.pull(pull)
        since_pull = 0
        position = first - 1
        while position < until:
            chunk, told = consumer.arrived(wire.received())
            if told:
                raise Lost(f"the consumer ended: {told[0][:80]!r}")
            since_pull += len(chunk)
            while since_pull >= PULL:
                since_pull -= PULL
                consumer.pull(pull)
            if chunk:
                position = chunk[-1][0]
                yield chunk
    finally:
        consumer.end()
