"""Declare the streams: ``python -m ridges.chassis.migrate``. The only step that creates or changes a stream."""

import asyncio
import sys
from typing import Any
from uuid import uuid4

import msgspec
from nats.aio.client import Client
from nats.js.errors import APIError, NotFoundError

from ridges.chassis import settings
from ridges.chassis.jetstream.connection import read_reply
from ridges.chassis.jetstream.denials import Denials
from ridges.chassis.jetstream.streams import (
    EPOCH,
    EVENTS,
    LOG_OF_RECORD,
    RECORDED_HERE,
    RECORDED_IN_KURRENTDB,
    STREAMS,
    differences,
)
from ridges.chassis.ports import EventRefused, EventStoreUnavailable, LogMismatch

REQUEST_TIMEOUT_S = 5.0
PERSISTENCE_S = 60.0
RETRY_PAUSE_S = 1.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the migrate step."""

    nats_url: str = "nats://127.0.0.1:4222"
    """The log's server."""
    nats_user: str | None = None
    """A user that may create streams."""
    nats_password: str | None = None
    """Its password."""
    stream_replicas: int = 1
    """Copies of each stream: 1 on a single server, 3 on a cluster."""
    event_store_url: str | None = None
    """KurrentDB, where it is the log of record (kurrentdb://…); the stream EVENTS is its mirror then."""


async def declare_streams(nc: Client, replicas: int = 1, kurrentdb_epoch: str | None = None) -> list[str]:
    """Create what is missing and mend what is set otherwise; one line for each stream says what was done.

    With an epoch of KurrentDB's log, the stream EVENTS is declared as the mirror of that log.

    Raises:
        APIError: the server refuses, for example a change of storage.
        LogMismatch: the stream EVENTS belongs to another log.
    """
    identity = (
        {LOG_OF_RECORD: RECORDED_IN_KURRENTDB, EPOCH: kurrentdb_epoch}
        if kurrentdb_epoch
        else {LOG_OF_RECORD: RECORDED_HERE}
    )
    return [await _declare(nc, config | {"num_replicas": replicas}, identity) for config in STREAMS]


async def _declare(nc: Client, config: dict[str, Any], identity: dict[str, str]) -> str:
    name = config["name"]
    try:
        found = (await _api(nc, f"STREAM.INFO.{name}"))["config"]
    except NotFoundError:
        await _api(nc, f"STREAM.CREATE.{name}", _with_identity(config, identity, {}))
        return f"{name}: created"
    wanted = _with_identity(config, identity, found.get("metadata") or {})
    wrong = differences(found, wanted)
    if not wrong:
        return f"{name}: as it should be"
    await _api(nc, f"STREAM.UPDATE.{name}", found | wanted)
    return f"{name}: mended ({'; '.join(wrong)})"


def _with_identity(config: dict[str, Any], identity: dict[str, str], metadata: dict[str, str]) -> dict[str, Any]:
    if config["name"] != EVENTS["name"]:
        return config
    for key, value in identity.items():
        if metadata.get(key, value) != value:
            raise LogMismatch(
                f"the stream EVENTS says {key} = {metadata[key]!r}, the settings say {value!r}; mend "
                "RIDGES_EVENT_STORE_URL, or begin a new log on an empty server (no command copies a log yet)"
            )
    return config | {"metadata": {EPOCH: str(uuid4())} | identity | metadata}


async def _api(nc: Client, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    payload = msgspec.json.encode(body) if body is not None else b""
    return read_reply(await nc.request(f"$JS.API.{path}", payload, timeout=REQUEST_TIMEOUT_S))


async def _migrate(place: Settings) -> None:
    nc = Client()
    mend = "set RIDGES_NATS_USER and RIDGES_NATS_PASSWORD to a user that may change streams"
    denials = Denials(place.nats_user, mend)
    async with asyncio.timeout(PERSISTENCE_S):
        await nc.connect(
            place.nats_url,
            name="migrate",
            user=place.nats_user,
            password=place.nats_password,
            error_cb=denials.on_error,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
        )
        try:
            epoch = await _kurrentdb_epoch(place.event_store_url) if place.event_store_url else None
            for line in await denials.heeded(declare_streams(nc, place.stream_replicas, epoch)):
                sys.stdout.write(line + "\n")
        finally:
            await nc.close()


async def _kurrentdb_epoch(event_store_url: str) -> str:
    from ridges.chassis.kurrent.connection import KurrentConnection  # noqa: PLC0415 - gRPC only where it is used
    from ridges.chassis.kurrent.epoch import declared_epoch  # noqa: PLC0415

    kurrent = KurrentConnection(event_store_url, "migrate")
    try:
        while True:
            try:
                return await declared_epoch(kurrent)
            except EventStoreUnavailable as error:
                sys.stderr.write(f"{error}; waiting for it\n")
                await asyncio.sleep(RETRY_PAUSE_S)
    finally:
        await kurrent.close()


def main() -> int:
    """Run the step; the exit status."""
    try:
        place = settings.load(Settings)
    except settings.SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        asyncio.run(_migrate(place))
    except settings.SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (LogMismatch, EventRefused) as error:
        sys.stderr.write(f"{error}\n")
        return 3
    except TimeoutError:
        told = "" if place.event_store_url is None else ", or KurrentDB did not"
        sys.stderr.write(f"no NATS server with JetStream answered at {place.nats_url} for {PERSISTENCE_S:g} s{told}\n")
        return 3
    except APIError as error:
        sys.stderr.write(f"the NATS server at {place.nats_url} refuses a stream: {error.description}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
