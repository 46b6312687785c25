"""The event store that the settings name: the one place that knows which adapters there are."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Union

from ridges.chassis import jetstream
from ridges.chassis.settings import SettingsError

if TYPE_CHECKING:
    from ridges.chassis.kurrent import KurrentEventStore
    from ridges.chassis.kurrent.relay import Relay

OpenedEventStore = Union[jetstream.JetStreamEventStore, "KurrentEventStore"]


@asynccontextmanager
async def open_event_store(
    nats_url: str,
    *,
    name: str,
    event_store_url: str | None = None,
    monitor_url: str | None = None,
    user: str | None = None,
    password: str | None = None,
    relay_user: str | None = None,
    relay_password: str | None = None,
    allow_lossy: bool = False,
    log_epoch: str | None = None,
) -> AsyncIterator[OpenedEventStore]:
    """The log of record: KurrentDB when ``event_store_url`` names one, else the stream EVENTS on NATS itself.

    Enters at once and waits for its servers in the background, see ``jetstream.open_event_store``. ``relay_user``: who
    may write the mirror, for the one service that runs the relay; default: ``user``.

    Raises:
        SettingsError: RIDGES_EVENT_STORE_URL cannot be used.
        LogMismatch: the log answered and is not the configured one.
    """
    if event_store_url is None:
        async with jetstream.open_event_store(
            nats_url,
            name=name,
            monitor_url=monitor_url,
            user=user,
            password=password,
            allow_lossy=allow_lossy,
            log_epoch=log_epoch,
        ) as store:
            yield store
        return
    try:
        from ridges.chassis.kurrent import open_kurrent_store  # noqa: PLC0415 - gRPC only where it is used
    except ImportError as error:
        raise SettingsError(
            f"RIDGES_EVENT_STORE_URL is set, but KurrentDB's client is not installed ({error}): install the extra "
            "ridges-chassis[kurrent], or unset the variable to keep the log on NATS"
        ) from error
    async with open_kurrent_store(
        event_store_url,
        nats_url,
        name=name,
        monitor_url=monitor_url,
        user=user,
        password=password,
        relay_user=relay_user,
        relay_password=relay_password,
        allow_lossy=allow_lossy,
        log_epoch=log_epoch,
    ) as kurrent_store:
        yield kurrent_store


def relay_of(store: OpenedEventStore) -> "Relay | None":
    """What the ledger must run (``run``) and watch (``check``) when KurrentDB is the log of record."""
    return None if isinstance(store, jetstream.JetStreamEventStore) else store.relay
