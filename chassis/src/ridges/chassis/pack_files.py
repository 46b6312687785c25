"""Many small contents in one file: a pack, which one process appends to and nobody changes.

A pack is a row of records: ``RECORD`` (4 bytes), length of the content (4 bytes, little-endian), its SHA-256 (32), the
content. Where a crash tore the last record, or a power cut left zeros, the pack ends.

An index beside a pack says where its records are: ``INDEX`` (8 bytes), how much of the pack it covers (8), then digest
(32), place of the content (8) and length (4) of each record, sorted by digest. It says nothing that the pack does not
say itself: without it, and behind what it covers, a pack is read record by record.
"""

import os
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from ridges.chassis.blob_files import sync_directory, write_durably

RECORD = b"RdR1"
INDEX = b"RdIndex1"
PACK, INDEXED = ".pack", ".index"
HEAD = struct.Struct("<4sI32s")
INDEX_HEAD = struct.Struct("<8sQ")
ENTRY = struct.Struct("<32sQI")
MOST_BYTES = 64 * 1024 * 1024
MOST_RECORDS = 16_384
"""A pack is full with either: its index is small enough to be kept in memory, in a compact form."""
APPENDED_BYTES = 1024 * 1024
"""Contents of one write: they are copied together."""
REMEMBERED = 1_000
"""Digests written last: the same content again is not written again."""
LEFT_BEHIND_S = 600.0
"""A pack that grew no more for so long has lost its writer, or may be indexed all the same."""


class Entry(NamedTuple):
    """Where a content is in a pack."""

    digest: bytes
    place: int
    length: int


def entries_of(pack: int, after: int) -> Iterator[Entry]:
    """The whole records of an open pack from a record's beginning on; ends at what is none."""
    size = os.fstat(pack).st_size
    while after + HEAD.size <= size:
        head = os.pread(pack, HEAD.size, after)
        if len(head) < HEAD.size:
            return
        mark, length, digest = HEAD.unpack(head)
        place = after + HEAD.size
        if mark != RECORD or place + length > size:
            return
        yield Entry(digest, place, length)
        after = place + length


def write_index(pack: Path, entries: bytes | bytearray, covered: int) -> None:
    """The index beside the pack. ``entries``: those of its first ``covered`` bytes, packed, in any order."""
    rows = sorted(entries[at : at + ENTRY.size] for at in range(0, len(entries), ENTRY.size))
    content = INDEX_HEAD.pack(INDEX, covered) + b"".join(rows)
    write_durably(pack.with_suffix(INDEXED), content, pack.parent.parent)


class PackWriter:
    """Appends to packs of its own in a folder. Use from one thread at a time."""

    def __init__(self, folder: Path, *, most_records: int = MOST_RECORDS, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_records, self._most_bytes = folder, most_records, most_bytes
        self._path = folder
        self._pack: int | None = None
        self._end = 0
        self._entries = bytearray()
        self._remembered: dict[bytes, None] = {}

    def write(self, contents: Sequence[tuple[bytes, bytes]]) -> None:
        """Append contents, each with its SHA-256. Other processes can read them when this returns.

        Raises:
            OSError: some or all of them are not stored; those of earlier calls are.
        """
        fresh = {digest: content for digest, content in contents if digest not in self._remembered}
        records = deque(fresh.items())
        while records:
            if self._pack is None:
                self._begin()
            room = self._most_records - len(self._entries) // ENTRY.size
            self._append(_some(records, room))
            if self._end >= self._most_bytes or len(self._entries) >= self._most_records * ENTRY.size:
                self._finish()

    def sync(self) -> None:
        """What was written survives a power cut."""
        if self._pack is not None:
            os.fdatasync(self._pack)

    def _append(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        assert self._pack is not None
        parts = [part for digest, content in records for part in (HEAD.pack(RECORD, len(content), digest), content)]
        together = memoryview(b"".join(parts))
        written = 0
        try:
            while written < len(together):
                written += os.write(self._pack, together[written:])
        finally:
            self._note(records, self._end + written)

    def _note(self, records: Sequence[tuple[bytes, bytes]], written_until: int) -> None:
        """Keep the whole records: somebody may have read them. Cut one off that was written in part."""
        for digest, content in records:
            place = self._end + HEAD.size
            if place + len(content) > written_until:
                break
            self._entries += ENTRY.pack(digest, place, len(content))
            self._end = place + len(content)
            self._remembered[digest] = None
        while len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        if self._end < written_until:
            self._cut()

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            index_left_behind(self._folder)
        self._path = self._folder / f"{time.time_ns() // 1_000_000:012x}-{uuid4().hex[:12]}{PACK}"
        self._pack = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._end, self._entries = 0, bytearray()
        os.fchmod(self._pack, 0o644)
        for folder in (self._folder, self._folder.parent):
            sync_directory(folder)

    def _finish(self) -> None:
        """The pack is full."""
        assert self._pack is not None
        pack, self._pack = self._pack, None
        try:
            os.fdatasync(pack)
        finally:
            os.close(pack)
        with suppress(OSError):  # it can be read without an index
            write_index(self._path, self._entries, self._end)

    def _cut(self) -> None:
        assert self._pack is not None
        try:
            os.ftruncate(self._pack, self._end)
        except OSError:  # a torn record ends a pack: go on in another one
            os.close(self._pack)
            self._pack = None


def _some(records: deque[tuple[bytes, bytes]], most: int) -> list[tuple[bytes, bytes]]:
    """Taken from the left: one, and further ones while they are few and small."""
    some = [records.popleft()]
    size = len(some[0][1])
    while records and len(some) < most and size + len(records[0][1]) <= APPENDED_BYTES:
        some.append(records.popleft())
        size += len(some[-1][1])
    return some


def index_left_behind(folder: Path) -> None:
    """Index the packs whose writers ended before they were full."""
    for path in folder.glob(f"*{PACK}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime < LEFT_BEHIND_S or path.with_suffix(INDEXED).exists():
                continue
            pack = os.open(path, os.O_RDONLY)
            try:
                entries, end = bytearray(), 0
                for entry in entries_of(pack, 0):
                    entries += ENTRY.pack(*entry)
                    end = entry.place + entry.length
            finally:
                os.close(pack)
            write_index(path, entries, end)
