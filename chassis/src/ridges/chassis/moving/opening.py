"""Both sides of a move, from their URLs: the scheme says which store it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.streams import RECORDED_IN_KURRENTDB
from ridges.chassis.moving.jetstream import JetStreamSource, JetStreamTarget
from ridges.chassis.moving.nats_server import NatsServer, administered
from ridges.chassis.moving.ports import Source, Target
from ridges.chassis.settings import SettingsError

if TYPE_CHECKING:
    from ridges.chassis.moving.kurrent import KurrentLog

OF_KURRENTDB = tuple(f"{name}{how}" for name in ("kurrentdb", "kdb", "esdb") for how in ("", "+discover"))


def is_kurrentdb(url: str) -> bool:
    """Whether the URL names a KurrentDB and no NATS server.

    Raises:
        SettingsError: it names neither.
    """
    scheme = urlsplit(url).scheme
    if scheme not in (*OF_KURRENTDB, "nats"):
        raise SettingsError("the new place of the log must be nats://host:4222 or kurrentdb://host:2113")
    return scheme != "nats"


@asynccontextmanager
async def opened_source(server: NatsServer, event_store_url: str | None) -> AsyncIterator[Source]:
    """The log that the services use now: in KurrentDB where it is configured, with this server as its mirror."""
    if event_store_url is None:
        yield JetStreamSource(server)
        return
    async with _opened_kurrentdb(event_store_url) as log:
        from ridges.chassis.moving.kurrent import KurrentSource  # noqa: PLC0415 - gRPC only where it is used

        yield KurrentSource(log, JetStreamSource(server, RECORDED_IN_KURRENTDB))


@asynccontextmanager
async def opened_target(place: Place, replicas: int | None = None) -> AsyncIterator[tuple[Target, NatsServer | None]]:
    """The new store, and the NATS server that it is, where it is one. Raises CannotMove, SettingsError.

    ``replicas``: copies of each stream at a NATS server; None: as they are there, one where they are new.
    """
    if not is_kurrentdb(place.url):
        mend = "set RIDGES_TARGET_NATS_USER and RIDGES_TARGET_NATS_PASSWORD to a user that may change streams"
        async with administered(place, mend) as server:
            yield JetStreamTarget(server, allow_lossy=place.allow_lossy, replicas=replicas), server
        return
    async with _opened_kurrentdb(place.url) as log:
        from ridges.chassis.moving.kurrent import KurrentTarget  # noqa: PLC0415

        yield KurrentTarget(log), None


@asynccontextmanager
async def _opened_kurrentdb(url: str) -> AsyncIterator["KurrentLog"]:
    try:
        from ridges.chassis.kurrent.connection import KurrentConnection  # noqa: PLC0415
        from ridges.chassis.moving.kurrent import KurrentLog  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"KurrentDB's client is not installed ({error}): install the extra ridges-chassis[kurrent]"
        ) from error
    connection = KurrentConnection(url, "migrate")
    try:
        yield KurrentLog(connection)
    finally:
        await connection.close()
