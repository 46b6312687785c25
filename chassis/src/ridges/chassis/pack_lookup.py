"""Contents in packs, found by digest, whichever process wrote them and however short ago."""

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock

from ridges.chassis.pack_files import ENTRY, INDEX, INDEX_HEAD, INDEXED, PACK, entries_of

MAPPED_BYTES = 64 * 1024
"""Smaller indexes are read: each start of a gateway leaves a small pack, and a map holds a file descriptor."""


class PackLookup:
    """All packs of a folder. May be used by many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._packs: dict[str, _Pack] = {}
        self._likely: _Pack | None = None
        """Where the last one was: contents that are asked for together were written together."""
        self._lock = Lock()

    def get(self, digest: bytes) -> bytes | None:
        """The content with this SHA-256; None when no pack has it. A damaged one only where no pack has a good one."""
        with self._lock:
            content = self._find(digest)
            if content is None or sha256(content).digest() != digest:
                self._look_again()
                content = self._find(digest)
        return content

    def _find(self, digest: bytes) -> bytes | None:
        damaged = None
        for pack in self._in_order():
            content = pack.get(digest)
            if content is None:
                continue
            if sha256(content).digest() == digest:
                self._likely = pack
                return content
            damaged = content
        return damaged

    def _in_order(self) -> "Iterator[_Pack]":
        if self._likely is not None:
            yield self._likely
        yield from reversed(self._packs.values())

    def _look_again(self) -> None:
        """New packs, and what was appended to known ones; those that are gone are forgotten."""
        try:
            names = {entry.name for entry in os.scandir(self._folder)}
        except (FileNotFoundError, NotADirectoryError):
            names = set()
        for gone in self._packs.keys() - names:
            del self._packs[gone]
        for name in sorted(names - self._packs.keys()):
            if name.endswith(PACK):
                self._packs[name] = _Pack(self._folder / name)
        for pack in self._packs.values():
            with suppress(FileNotFoundError):
                pack.look_again()


class _Pack:
    """One pack as far as it was looked at: by its index, and record by record behind what that covers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index: mmap.mmap | bytes | None = None
        self._rows = 0
        self._tail: dict[bytes, tuple[int, int]] = {}
        self._seen = 0

    def look_again(self) -> None:
        """Take in what was appended. Raises FileNotFoundError: the pack is gone."""
        if self._index is None:
            self._take_index()
        if self._path.stat().st_size <= self._seen:
            return
        pack = os.open(self._path, os.O_RDONLY)
        try:
            for digest, place, length in entries_of(pack, self._seen):
                self._tail[digest] = place, length
                self._seen = place + length
        finally:
            os.close(pack)

    def _take_index(self) -> None:
        """Where there is a good one, what it covers need not be kept in memory."""
        try:
            with self._path.with_suffix(INDEXED).open("rb") as file:
                small = os.fstat(file.fileno()).st_size < MAPPED_BYTES
                index = file.read() if small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError):  # none, or an empty one
            return
        rows, rest = divmod(len(index) - INDEX_HEAD.size, ENTRY.size)
        if rows < 0 or rest:
            return
        mark, covered = INDEX_HEAD.unpack_from(index)
        if mark != INDEX or covered > self._path.stat().st_size:
            return
        self._index, self._rows = index, rows
        self._tail = {digest: found for digest, found in self._tail.items() if found[0] > covered}
        self._seen = max(self._seen, covered)

    def get(self, digest: bytes) -> bytes | None:
        found = self._tail.get(digest) or self._indexed(digest)
        if found is None:
            return None
        place, length = found
        try:
            pack = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return os.pread(pack, length, place)
        finally:
            os.close(pack)

    def _indexed(self, digest: bytes) -> tuple[int, int] | None:
        if self._index is None:
            return None
        low, high = 0, self._rows
        while low < high:
            middle = (low + high) // 2
            found, place, length = ENTRY.unpack_from(self._index, INDEX_HEAD.size + middle * ENTRY.size)
            if found == digest:
                return place, length
            if found < digest:
                low = middle + 1
            else:
                high = middle
        return None
