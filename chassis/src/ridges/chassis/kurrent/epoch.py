"""Is this KurrentDB the log of record, and is the mirror its mirror?"""

from uuid import uuid4

import msgspec

from ridges.chassis.jetstream.fence import refusal
from ridges.chassis.jetstream.streams import RECORDED_IN_KURRENTDB
from ridges.chassis.jetstream.verify import MIGRATE, NotYet
from ridges.chassis.kurrent.connection import KurrentConnection
from ridges.chassis.kurrent.names import LOG_STREAM
from ridges.chassis.ports import LogMismatch


class LogIdentity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the metadata of a log say. The same fields stand on the stream EVENTS; those of a move, see ``fence``."""

    log_of_record: str
    epoch: str
    migration: str | None = None
    from_epoch: str | None = None
    moved_to: str | None = None
    next_epoch: str | None = None


async def log_identity(kurrent: KurrentConnection) -> LogIdentity | None:
    """None when the migrate step has not run yet."""
    found = await kurrent.metadata(LOG_STREAM)
    return msgspec.convert(found, LogIdentity) if found else None


async def declared_epoch(kurrent: KurrentConnection) -> str:
    """The epoch; a KurrentDB that has none gets one.

    Raises:
        LogMismatch: it was the log of record once; another store is now.
    """
    fresh = LogIdentity(log_of_record=RECORDED_IN_KURRENTDB, epoch=str(uuid4()))
    await kurrent.declare_metadata(LOG_STREAM, msgspec.to_builtins(fresh))
    identity = await log_identity(kurrent)
    assert identity is not None, "it was declared"
    _check_record(kurrent, identity)
    return identity.epoch


class MirrorCheck:
    """Compares the mirror's epoch with KurrentDB's, until both were the same once."""

    def __init__(self, kurrent: KurrentConnection) -> None:
        self._kurrent = kurrent
        self._good: str | None = None

    async def verify(self, mirror_epoch: str) -> None:
        """Raises NotYet, LogMismatch, EventStoreUnavailable."""
        if mirror_epoch != self._good:
            await check_mirror(self._kurrent, mirror_epoch)
            self._good = mirror_epoch


async def check_mirror(kurrent: KurrentConnection, mirror_epoch: str) -> None:
    """Raises NotYet, LogMismatch, EventStoreUnavailable."""
    identity = await log_identity(kurrent)
    if identity is None:
        raise NotYet(f"KurrentDB at {kurrent.address} has no log yet; run the migrate step: {MIGRATE}")
    _check_record(kurrent, identity)
    if identity.epoch != mirror_epoch:
        raise LogMismatch(
            f"the stream EVENTS mirrors another log (epoch {mirror_epoch}) than KurrentDB at {kurrent.address} holds "
            f"(epoch {identity.epoch}): mend RIDGES_EVENT_STORE_URL or RIDGES_NATS_URL, or delete the stream EVENTS "
            f"and run: {MIGRATE}"
        )


def _check_record(kurrent: KurrentConnection, identity: LogIdentity) -> None:
    refused = refusal(msgspec.to_builtins(identity), f"kurrentdb://{kurrent.address}")
    if refused is not None:
        raise LogMismatch(refused)
    if identity.log_of_record != RECORDED_IN_KURRENTDB:
        raise LogMismatch(
            f"KurrentDB at {kurrent.address} is not the log of record, {identity.log_of_record!r} is since epoch "
            f"{identity.epoch}; mend RIDGES_EVENT_STORE_URL"
        )
