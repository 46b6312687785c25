"""Read the events in nats-server's own files, without the server: behind damage, it cuts off what is still whole.

Source: nats-server 2.15, server/filestore.go. A stream's folder has blocks ``msgs/<number>.blk``, a block has records:
length (4 bytes, the first bit says that there are headers), position (8), time (8), size of the subject (2), subject,
[size of the headers (4), headers,] content, HighwayHash (8). All little-endian. Not for encrypted or compressed stores.
"""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.chassis.jetstream.highway_hash import highway_hash_64
from ridges.contracts.subjects import ALL_EVENTS, EVENTS_STREAM

_HEAD = struct.Struct("<IQQH")
_SIZE = struct.Struct("<I")
_HASH = struct.Struct("<Q")
_HAS_HEADERS = 1 << 31
_NO_MESSAGE = 0b11 << 62
"""Bits of the position: an erased message, a tombstone."""
_SUBJECT_BEGINS = ALL_EVENTS.removesuffix(">").encode()


def block_files(folder: Path) -> list[Path]:
    """The blocks of the stream EVENTS in a folder that is, or has somewhere below, the folder of that stream."""
    found = [path for path in folder.rglob("*.blk") if path.stem.isdigit() and _is_of_events(path, folder)]
    return sorted(found, key=lambda path: int(path.stem))


def stored_events(blocks: list[Path]) -> Iterator[RawEvent]:
    """Every event whose record has its checksum, as it stands: what is damaged is stepped over."""
    for block in blocks:
        yield from (event for _, event in _records(block, 0) if event is not None)


def bytes_behind(block: Path) -> int:
    """How many bytes stand in the block behind its last whole record: a torn one, or a damaged one."""
    end = 0
    for end, _ in _records(block, 0):  # noqa: B007 - the last one counts
        pass
    return block.stat().st_size - end


def whole_event_after(block: Path, offset: int) -> RawEvent | None:
    """The first event that stands in the block at the offset or behind it."""
    return next((event for _, event in _records(block, offset) if event is not None), None)


def _is_of_events(path: Path, folder: Path) -> bool:
    return path.parent in (folder, folder / "msgs") or path.parent.parent.name == EVENTS_STREAM


def _records(block: Path, at: int) -> Iterator[tuple[int, RawEvent | None]]:
    """Where each whole record ends, and its event, if it is one."""
    content = block.read_bytes()
    key = hashlib.sha256(f"{EVENTS_STREAM}-{int(block.stem)}".encode()).digest()
    while at + _HEAD.size <= len(content):
        length, event = _record(content, at, key)
        if length:
            at += length
            yield at, event
            continue
        subject = content.find(_SUBJECT_BEGINS, at + _HEAD.size + 1)
        if subject < 0:
            return
        at = subject - _HEAD.size


def _record(content: bytes, at: int, key: bytes) -> tuple[int, RawEvent | None]:
    """Its length, 0 where there is no whole record; the event, if it is one."""
    length, position, _, subject_size = _HEAD.unpack_from(content, at)
    has_headers, length = bool(length & _HAS_HEADERS), length & ~_HAS_HEADERS
    end = at + length - _HASH.size
    subject_end = at + _HEAD.size + subject_size
    body = subject_end + (_SIZE.size if has_headers else 0)
    if body > end or end + _HASH.size > len(content):
        return 0, None
    subject = content[at + _HEAD.size : subject_end]
    hashed = content[at + 4 : at + 20] + subject + content[body:end]
    if highway_hash_64(key, hashed) != _HASH.unpack_from(content, end)[0]:
        return 0, None
    if position & _NO_MESSAGE or not subject.startswith(_SUBJECT_BEGINS):
        return length, None
    headers_end = body + (_SIZE.unpack_from(content, subject_end)[0] if has_headers else 0)
    return length, (position, subject, content[body:headers_end], content[headers_end:end])
