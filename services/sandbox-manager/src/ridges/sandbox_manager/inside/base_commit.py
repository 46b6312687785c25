"""One commit of a directory as git itself would lay it down, in a pack and with its index, without a process.

Sources: gitformat-pack(5) and gitformat-index(5), version 2 of each.
"""

from __future__ import annotations

import os
import stat
import struct
from itertools import accumulate

try:
    from _sha1 import sha1  # type: ignore[import-not-found]  # hashlib loads OpenSSL
except ImportError:  # an interpreter without its own
    from hashlib import sha1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Entry = tuple[bytes, os.stat_result, bytes]
    """Name, facts, digest of the blob."""

FILE, PROGRAM, LINK, DIRECTORY = 0o100644, 0o100755, 0o120000, 0o40000
PIECE = 1 << 20
_COMMIT, _TREE, _BLOB = 1, 2, 3
_KINDS = {_COMMIT: b"commit", _TREE: b"tree", _BLOB: b"blob"}
_WHO = b"Ridges <ridges@localhost> 946684800 +0000"
MOST_SMALL_OFFSET = (1 << 31) - 1
_LARGE = 1 << 31
"""Marks the place of a larger one, which does not fit."""


def write_commit(git_dir: str, work_tree: str) -> list[Entry]:
    """Commits everything but ``.git`` to ``main``; the same commit for the same files. What its index holds.

    Raises:
        OSError: a file could not be read, or there is no room.
    """
    entries: list[Entry] = []
    pack = Pack(os.path.join(git_dir, "objects/pack"))
    root = _write_tree(pack, os.fsencode(work_tree), b"", entries) or pack.add(_TREE, b"")
    head = b"tree %s\nauthor %s\ncommitter %s\n\nbase" % (root.hex().encode(), _WHO, _WHO)
    commit = pack.add(_COMMIT, head)
    pack.finish()
    with open(os.path.join(git_dir, "refs/heads/main"), "x") as file:
        file.write(commit.hex() + "\n")
    return entries


def mode_of(facts: os.stat_result) -> int:
    """Git's mode of a file or a link."""
    if stat.S_ISLNK(facts.st_mode):
        return LINK
    return PROGRAM if facts.st_mode & 0o111 else FILE


def digest_of(path: bytes, facts: os.stat_result) -> bytes:
    """Git's name for the content of a file or a link."""
    return _digest(_BLOB, facts.st_size, _pieces(path, facts))


def _write_tree(pack: Pack, root: bytes, prefix: bytes, entries: list[Entry]) -> bytes | None:
    """A directory and all below it; None when there is no file in it: git knows no empty directory."""
    with os.scandir(os.path.join(root, prefix)) as found:
        inside = sorted((each for each in found if each.name != b".git"), key=lambda each: each.name)
    lines: list[tuple[bytes, bytes]] = []
    for each in inside:
        name = os.path.join(prefix, each.name)
        if each.is_dir(follow_symlinks=False):
            tree = _write_tree(pack, root, name, entries)
            if tree:
                lines.append((each.name + b"/", b"%o %s\0%s" % (DIRECTORY, each.name, tree)))
        else:
            facts = each.stat(follow_symlinks=False)
            blob = pack.add_file(os.path.join(root, name), facts)
            entries.append((name, facts, blob))
            lines.append((each.name, b"%o %s\0%s" % (mode_of(facts), each.name, blob)))
    return pack.add(_TREE, b"".join(line for _, line in sorted(lines))) if lines else None


def _pieces(path: bytes, facts: os.stat_result) -> Iterator[bytes]:
    if stat.S_ISLNK(facts.st_mode):
        yield os.readlink(path)
        return
    with open(path, "rb", buffering=0) as file:
        yield from iter(lambda: file.read(PIECE), b"")


def _digest(kind: int, size: int, pieces: Iterable[bytes]) -> bytes:
    digest = sha1(b"%s %d\0" % (_KINDS[kind], size))  # noqa: S324  # as git does
    for piece in pieces:
        digest.update(piece)
    found: bytes = digest.digest()
    return found


class Pack:
    """Objects in one file, and where each is in another; both have their names when it is finished."""

    def __init__(self, directory: str) -> None:
        import zlib  # noqa: PLC0415  # loads a library: only where there is a repository

        self._zlib = zlib
        self._directory = directory
        self._placed: dict[bytes, tuple[int, int]] = {}
        """Checksum and offset of each object by its digest."""
        self._new = os.path.join(directory, "new")
        self._file = open(self._new, "w+b", buffering=PIECE)  # finish closes it
        self._size = self._file.write(struct.pack(">4sII", b"PACK", 2, 0))

    def add(self, kind: int, content: bytes) -> bytes:
        """Its digest."""
        digest = _digest(kind, len(content), (content,))
        if digest not in self._placed:
            self._place(digest, kind, len(content), (content,))
        return digest

    def add_file(self, path: bytes, facts: os.stat_result) -> bytes:
        """Likewise, of a file or a link, in bounded memory."""
        if facts.st_size <= PIECE:
            return self.add(_BLOB, b"".join(_pieces(path, facts)))
        digest = digest_of(path, facts)
        if digest not in self._placed:
            self._place(digest, _BLOB, facts.st_size, _pieces(path, facts))
        return digest

    def _place(self, digest: bytes, kind: int, size: int, pieces: Iterable[bytes]) -> None:
        compress, checksum = self._zlib.compressobj(1), 0
        began, parts = self._size, [_head(kind, size)]
        for piece in pieces:
            parts.append(compress.compress(piece))
            checksum = self._write(parts, checksum)
        parts.append(compress.flush())
        self._placed[digest] = self._write(parts, checksum), began

    def _write(self, parts: list[bytes], checksum: int) -> int:
        content = b"".join(parts)
        parts.clear()
        self._size += self._file.write(content)
        return self._zlib.crc32(content, checksum)

    def finish(self) -> None:
        """Nothing may be added any more."""
        self._file.seek(0)
        self._file.write(struct.pack(">4sII", b"PACK", 2, len(self._placed)))
        self._file.seek(0)
        whole = sha1()  # noqa: S324  # as git does
        for piece in iter(lambda: self._file.read(PIECE), b""):
            whole.update(piece)
        self._file.write(whole.digest())
        self._file.close()
        name = os.path.join(self._directory, f"pack-{whole.hexdigest()}")
        index = self._index() + whole.digest()
        with open(name + ".idx", "xb") as file:
            file.write(index + sha1(index).digest())  # noqa: S324  # likewise
        os.rename(self._new, name + ".pack")

    def _index(self) -> bytes:
        digests = sorted(self._placed)
        counts = [0] * 256
        for digest in digests:
            counts[digest[0]] += 1
        offsets = [self._placed[digest][1] for digest in digests]
        large = [offset for offset in offsets if offset > MOST_SMALL_OFFSET]
        places = iter(range(_LARGE, _LARGE + len(large)))
        small = [offset if offset <= MOST_SMALL_OFFSET else next(places) for offset in offsets]
        checksums = [self._placed[digest][0] for digest in digests]
        numbers = struct.pack(f">{2 * len(digests)}I{len(large)}Q", *checksums, *small, *large)
        return struct.pack(">4sI256I", b"\377tOc", 2, *accumulate(counts)) + b"".join(digests) + numbers


def _head(kind: int, size: int) -> bytes:
    """Kind and size of an object, seven bits a byte but for the first, which has four."""
    head, rest = [kind << 4 | size & 15], size >> 4
    while rest:
        head[-1] |= 0x80
        head.append(rest & 0x7F)
        rest >>= 7
    return bytes(head)


def write_index(path: str, entries: list[Entry]) -> None:
    """What ``git read-tree`` and ``git update-index --refresh`` make of the commit, without two processes."""
    content = [struct.pack(">4sII", b"DIRC", 2, len(entries))]
    for name, facts, digest in sorted(entries, key=lambda entry: entry[0]):
        entry = facts_in_index(facts) + struct.pack(">20sH", digest, min(len(name), 0xFFF))
        content.append((entry + name).ljust((len(entry) + len(name)) // 8 * 8 + 8, b"\0"))
    whole = b"".join(content)
    with open(path, "xb") as file:
        file.write(whole + sha1(whole).digest())  # noqa: S324  # likewise


def facts_in_index(facts: os.stat_result) -> bytes:
    """What an index holds of a file, 40 bytes: when it changed, where it is, mode, owner and size."""
    times = divmod(facts.st_ctime_ns, 10**9) + divmod(facts.st_mtime_ns, 10**9)
    numbers = (*times, facts.st_dev, facts.st_ino, mode_of(facts), facts.st_uid, facts.st_gid, facts.st_size)
    return struct.pack(">10I", *(number & 0xFFFFFFFF for number in numbers))
