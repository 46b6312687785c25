"""Is this the log we are configured for, and does its server keep what it acknowledges?"""

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from nats.js.errors import NotFoundError

from ridges.chassis.jetstream.fence import refusal
from ridges.chassis.jetstream.streams import EVENTS, LOG_OF_RECORD, MAX_EVENT_BYTES, RECORDED_HERE, differences
from ridges.chassis.ports import LogMismatch
from ridges.contracts.subjects import EVENTS_STREAM

MIGRATE = "python -m ridges.chassis.migrate"
MONITOR_TIMEOUT_S = 2.0
TROUBLE_TIMEOUT_S = 1.0
MORE_STORAGE = "raise max_file_store in its configuration (or give it a larger disk), then restart nats-server"

Api = Callable[[str], Awaitable[dict[str, Any]]]


class NotYet(Exception):
    """What is missing may still come: ask again."""


async def verified_epoch(
    api: Api, monitor_url: str | None, *, address: str, allow_lossy: bool, log_of_record: str = RECORDED_HERE
) -> str:
    """The epoch of the log.

    Raises:
        NotYet: the streams or the monitoring port are not there yet.
        LogMismatch: set wrong; the message names the command or setting that mends it.
    """
    try:
        info = await api(f"STREAM.INFO.{EVENTS_STREAM}")
    except NotFoundError:
        raise NotYet(f"the stream {EVENTS_STREAM} does not exist; run the migrate step: {MIGRATE}") from None
    config = info["config"]
    metadata = config.get("metadata") or {}
    refused = refusal(metadata, address)
    if refused is not None:
        raise LogMismatch(refused)
    wrong = differences(config, EVENTS)
    if wrong:
        raise LogMismatch(f"the stream {EVENTS_STREAM} is set wrong ({'; '.join(wrong)}); mend it: {MIGRATE}")
    record = metadata.get(LOG_OF_RECORD)
    if record != log_of_record:
        raise LogMismatch(
            f"the log of record is {record!r}, this service is configured for {log_of_record!r}; mend the event store "
            f"setting (RIDGES_EVENT_STORE_URL), or, when the stream is new, run: {MIGRATE}"
        )
    if not allow_lossy:
        await check_sync(monitor_url)
    return str(metadata["epoch"])


async def storage_trouble(monitor_url: str | None) -> str | None:
    """Why the server stores nothing although it answers, and what mends it; None: it does, or nobody tells.

    With a full disk nats-server stays up, answers reads, leaves publishers without an answer, and stays so when there
    is room again until it is restarted. Only its monitoring port says why.
    """
    if monitor_url is None:
        return None
    timeout = aiohttp.ClientTimeout(total=TROUBLE_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(monitor_url.rstrip("/") + "/", timeout=timeout) as session:
            async with session.get("healthz") as reply:
                told = (await reply.json(content_type=None)).get("error") or ""
            async with session.get("jsz") as reply:
                figures = await reply.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    if "write error" in told:
        return f"the NATS server cannot write ({told}); make room on its disk, then restart nats-server"
    most, used = figures.get("config", {}).get("max_storage", 0), figures.get("storage", 0)
    if 0 < most < used + MAX_EVENT_BYTES:
        return f"the NATS server may store {most:,} bytes and holds {used:,}; {MORE_STORAGE}"
    return None


async def check_sync(monitor_url: str | None) -> None:
    """Raises LogMismatch when the server may lose what it acknowledged, NotYet when it does not say."""
    override = "RIDGES_ALLOW_LOSSY_LOG=true runs without this safety"
    if monitor_url is None:
        raise LogMismatch(
            "cannot check that the NATS server syncs what it acknowledges: set RIDGES_NATS_MONITOR_URL "
            f"(http://host:8222); {override}"
        )
    url = monitor_url.rstrip("/") + "/varz"
    timeout = aiohttp.ClientTimeout(total=MONITOR_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
            reply.raise_for_status()
            settings = await reply.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NotYet(f"the NATS server's monitoring port does not answer at {url}: {error!r}") from error
    if not settings.get("jetstream", {}).get("config", {}).get("sync_always"):
        raise LogMismatch(
            f"the NATS server acknowledges before it syncs ({url}: sync_always is not set), a power cut would lose "
            f"events; set `jetstream {{ sync_interval: always }}` in its configuration and restart it; {override}"
        )
