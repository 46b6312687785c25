"""Declare the streams: ``python -m ridges.chassis.migrate``. The only step that creates or changes a stream, beside
`ridges ledger migrate`, which moves the log to another store.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
from nats.aio.client import Client
from nats.js.errors import APIError, NotFoundError

from ridges.chassis import settings
from ridges.chassis.jetstream.connection import OUT_OF_STORAGE, read_reply
from ridges.chassis.jetstream.denials import Denials
from ridges.chassis.jetstream.fence import MOVED, NEXT_EPOCH, refusal
from ridges.chassis.jetstream.inboxes import inbox_prefix
from ridges.chassis.jetstream.streams import (
    EPOCH,
    EVENTS,
    LOG_OF_RECORD,
    RECORDED_HERE,
    RECORDED_IN_KURRENTDB,
    STREAMS,
    differences,
)
from ridges.chassis.jetstream.verify import MORE_STORAGE
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


async def remove_moved_log(nc: Client, kurrentdb_epoch: str) -> str:
    """Delete the stream EVENTS whose log has moved to the KurrentDB of this epoch; one line says what was done.

    Raises:
        LogMismatch: it has not.
    """
    try:
        metadata = (await _api(nc, f"STREAM.INFO.{EVENTS['name']}"))["config"].get("metadata") or {}
    except NotFoundError:
        return f"{EVENTS['name']}: there is none"
    if metadata.get(LOG_OF_RECORD) == RECORDED_IN_KURRENTDB and metadata.get(EPOCH) == kurrentdb_epoch:
        return f"{EVENTS['name']}: is the mirror already"
    if (metadata.get(LOG_OF_RECORD), metadata.get(NEXT_EPOCH)) != (MOVED, kurrentdb_epoch):
        raise LogMismatch(
            f"the stream {EVENTS['name']} has not moved to the KurrentDB of RIDGES_EVENT_STORE_URL (epoch "
            f"{kurrentdb_epoch}): it says {metadata}; nothing was deleted"
        )
    await _api(nc, f"STREAM.DELETE.{EVENTS['name']}")
    return f"{EVENTS['name']}: deleted, its events are in KurrentDB"


def _with_identity(config: dict[str, Any], identity: dict[str, str], metadata: dict[str, str]) -> dict[str, Any]:
    if config["name"] != EVENTS["name"]:
        return config
    gone = refusal(metadata, "this server")
    if gone is not None:
        raise LogMismatch(gone)
    for key, value in identity.items():
        if metadata.get(key, value) != value:
            raise LogMismatch(
                f"the stream EVENTS says {key} = {metadata[key]!r}, the settings say {value!r}; mend "
                "RIDGES_EVENT_STORE_URL, move the log (`ridges ledger migrate`), or begin a new one on an empty server"
            )
    return config | {"metadata": {EPOCH: str(uuid4())} | identity | metadata}


async def _api(nc: Client, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    payload = msgspec.json.encode(body) if body is not None else b""
    return read_reply(await nc.request(f"$JS.API.{path}", payload, timeout=REQUEST_TIMEOUT_S))


async def _migrate(place: Settings, *, replace_moved_log: bool) -> None:
    nc = Client()
    mend = "set RIDGES_NATS_USER and RIDGES_NATS_PASSWORD to a user that may change streams"
    denials = Denials(place.nats_user, mend)
    async with asyncio.timeout(PERSISTENCE_S):
        await nc.connect(
            place.nats_url,
            name="migrate",
            user=place.nats_user,
            password=place.nats_password,
            inbox_prefix=inbox_prefix(place.nats_user),
            error_cb=denials.on_error,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
        )
        try:
            epoch = await _kurrentdb_epoch(place.event_store_url) if place.event_store_url else None
            if replace_moved_log and epoch is not None:
                sys.stdout.write(await denials.heeded(remove_moved_log(nc, epoch)) + "\n")
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


def main(arguments: Sequence[str] = ()) -> int:
    """Run the step; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ridges.chassis.migrate", description=__doc__)
    parser.add_argument(
        "--replace-moved-log",
        action="store_true",
        help="delete the stream EVENTS whose log has moved to this KurrentDB: it becomes the mirror",
    )
    asked = parser.parse_args(arguments)
    try:
        place = settings.load(Settings)
        if asked.replace_moved_log and place.event_store_url is None:
            raise settings.SettingsError("--replace-moved-log needs RIDGES_EVENT_STORE_URL, the new place of the log")
    except settings.SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        asyncio.run(_migrate(place, replace_moved_log=asked.replace_moved_log))
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
        mend = f"; INGRESS and PARKED reserve 768 MB: {MORE_STORAGE}" if error.err_code in OUT_OF_STORAGE else ""
        sys.stderr.write(f"the NATS server at {place.nats_url} refuses a stream: {error.description}{mend}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
