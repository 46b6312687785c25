"""Sealed segments of the log in the blob store: what they are, where they stand, and how they are read and proved.

A segment is two blobs, both Zstandard. ``events`` holds subject, event id and bytes of each message, exact, for
restoring and proving. ``replay`` holds the same events for the tables only, grouped by run, for a fast rebuild. The
description of a segment is found by name; each names the one before it by a hash chain.
"""

import hashlib
import sys
from collections.abc import Iterable
from datetime import datetime

import msgspec

from ridges.chassis.ports import BlobMissing, NamedBlobStore
from ridges.contracts.blobs import BlobRef, digest_of
from ridges.ledger.errors import LedgerError

if sys.version_info >= (3, 14):
    from compression import zstd  # deptry: ignore[DEP001] - in the standard library since 3.14
else:
    from backports import zstd

FOLDER = "archive"
FORMAT = 1
SEGMENT_EVENTS = 50_000
SEGMENT_BYTES = 64 * 1024 * 1024
"""Whichever comes first seals a segment."""
LEVEL = 3
START = "sha256:" + "0" * 64
"""What the first segment of a chain follows."""
MEDIA_TYPE = "application/zstd"


class ArchiveDamaged(LedgerError):
    """A segment is missing or is not what was sealed; the message names it."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a sealed range of the log."""

    format: int
    first: int
    last: int
    count: int
    content_digest: str
    """Of the uncompressed events."""
    previous: str
    """``chain`` of the segment before it."""
    chain: str
    """SHA-256 over ``previous`` and ``content_digest``."""
    last_event_id: str
    events: BlobRef
    replay: BlobRef
    replay_version: int
    """Version of the tables that the replay part is made for; others read the events."""
    sealed_at: datetime

    @property
    def name(self) -> str:
        return segment_name(self.first, self.last)

    @property
    def title(self) -> str:
        """For people."""
        return f"segment {self.first}-{self.last} ({self.name})"


class ArchivedEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message as it stands in the log."""

    subject: str
    event_id: str
    content: bytes

    @property
    def run_id(self) -> str:
        return self.subject.split(".")[1]


_events = msgspec.msgpack.Decoder(list[ArchivedEvent])
_segment = msgspec.json.Decoder(Segment)


def segment_name(first: int, last: int) -> str:
    """Sorts in the order of the log."""
    return f"{FOLDER}/{first:012d}-{last:012d}.json"


def chain_of(previous: str, content_digest: str) -> str:
    """The link that names everything up to and including this content."""
    return "sha256:" + hashlib.sha256(f"{previous}\n{content_digest}".encode()).hexdigest()


def packed(events: Iterable[ArchivedEvent]) -> bytes:
    """The content of a segment, uncompressed; the same events give the same bytes."""
    return msgspec.msgpack.encode(list(events))


def described(segment: Segment) -> bytes:
    """The description as JSON."""
    return msgspec.json.format(msgspec.json.encode(segment), indent=1)


def compressed(content: bytes) -> bytes:
    """With a checksum inside."""
    return zstd.compress(
        content,
        options={zstd.CompressionParameter.compression_level: LEVEL, zstd.CompressionParameter.checksum_flag: 1},
    )


async def segments(store: NamedBlobStore) -> list[Segment]:
    """All sealed segments in order, their chain checked.

    Raises:
        ArchiveDamaged: a description is unreadable, or the chain is broken.

    """
    found: list[Segment] = []
    after, previous = 0, START
    for name in await store.names(FOLDER):
        content = await store.get_named(name)
        try:
            segment = _segment.decode(content or b"")
        except msgspec.MsgspecError as error:
            raise ArchiveDamaged(
                f"the description {name} of the archive cannot be read: {error}. {_describe_again(name)}"
            ) from error
        if (segment.first, segment.previous) != (after + 1, previous) or segment.name != name:
            raise ArchiveDamaged(
                f"{segment.title} does not follow the one before it, which ends at {after}. {_describe_again(name)}"
            )
        if segment.chain != chain_of(segment.previous, segment.content_digest):
            raise ArchiveDamaged(
                f"the description of {segment.title} was changed: its hash chain does not fit. {_describe_again(name)}"
            )
        found.append(segment)
        after, previous = segment.last, segment.chain
    return found


def _describe_again(name: str) -> str:
    return (
        f"Bring it back from a backup of the blob store; or, if the log is whole, remove named/{name} and all later "
        "descriptions (each names the one before it) and archive again"
    )


async def events_of(store: NamedBlobStore, segment: Segment) -> list[ArchivedEvent]:
    """The messages of a segment, proved. Raises ArchiveDamaged."""
    content = await _content(store, segment, segment.events, "events")
    if digest_of(content) != segment.content_digest:
        raise ArchiveDamaged(f"the events of {segment.title} are not those that were sealed")
    events = _events.decode(content)
    if len(events) != segment.count:
        raise ArchiveDamaged(f"{segment.title} has {len(events)} events, {segment.count} were sealed")
    return events


async def replay_of(store: NamedBlobStore, segment: Segment) -> bytes:
    """The replay part, proved. Raises ArchiveDamaged."""
    return await _content(store, segment, segment.replay, "replay part")


async def _content(store: NamedBlobStore, segment: Segment, ref: BlobRef, what: str) -> bytes:
    try:
        return zstd.decompress(await store.get(ref.digest))
    except (BlobMissing, zstd.ZstdError) as error:
        raise ArchiveDamaged(f"the {what} of {segment.title}: {error}") from error
