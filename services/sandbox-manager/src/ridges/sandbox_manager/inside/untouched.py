"""Whether a work tree holds what its base commit does: then there is no difference to ask git for."""

from __future__ import annotations

import os
import stat
import struct

from ridges.sandbox_manager.inside.base_commit import digest_of, facts_in_index, mode_of

_HEAD, _FACTS, _FIXED = 12, 40, 62
"""Sizes in an index. Source: gitformat-index(5)."""
_MORE_DIRECTORIES = 10_000
"""Than an untouched tree may well have: git has to look at it anyway."""
_BYTE_CODE, _CACHE = b".pyc", b"__pycache__"
"""As ``repository.NO_BYTE_CODE``."""


def is_untouched(work_tree: str, index: bytes, indexed_at_ns: int) -> bool:
    """False also when that is not plain to see. Never follows a symlink, never opens what is no regular file.

    Args:
        work_tree: nobody works in it any more.
        index: as ``base_commit.write_index`` wrote it.
        indexed_at_ns: when; what changed since, or at that very moment, is read.
    """
    known = _entries(index)
    try:
        if not stat.S_ISDIR(os.lstat(work_tree).st_mode):
            return False
        return _all_known(os.fsencode(work_tree), known, indexed_at_ns) and all(map(_is_byte_code, known))
    except OSError:
        return False


def _all_known(root: bytes, known: dict[bytes, tuple[bytes, bytes]], indexed_at_ns: int) -> bool:
    """Whether nothing was added or changed; what it sees is taken from ``known``."""
    waiting, directories = [b""], 0
    while waiting:
        prefix, directories = waiting.pop(), directories + 1
        if directories > len(known) + _MORE_DIRECTORIES:
            return False
        with os.scandir(os.path.join(root, prefix)) as found:
            for each in found:
                name = os.path.join(prefix, each.name)
                if each.is_dir(follow_symlinks=False):
                    if name != b".git":  # one further down has files that nobody knows
                        waiting.append(name)
                elif not (_is_byte_code(name) or _is_as_known(root, name, known.pop(name, None), indexed_at_ns)):
                    return False
    return True


def _is_byte_code(name: bytes) -> bool:
    return name.endswith(_BYTE_CODE) or _CACHE in name.split(b"/")[:-1]


def _is_as_known(root: bytes, name: bytes, entry: tuple[bytes, bytes] | None, indexed_at_ns: int) -> bool:
    path = os.path.join(root, name)
    facts = os.lstat(path)
    if entry is None or not (stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode)):
        return False
    before, digest = entry
    now = facts_in_index(facts)
    if now == before and max(facts.st_mtime_ns, facts.st_ctime_ns) < indexed_at_ns:
        return True
    mode = struct.pack(">I", mode_of(facts))
    return mode == before[24:28] and now[-4:] == before[-4:] and digest_of(path, facts) == digest


def _entries(index: bytes) -> dict[bytes, tuple[bytes, bytes]]:
    """Facts and digest of each file by its name."""
    found, at = {}, _HEAD
    (count,) = struct.unpack_from(">I", index, _HEAD - 4)
    for _ in range(count):
        end = index.index(b"\0", at + _FIXED)
        found[index[at + _FIXED : end]] = index[at : at + _FACTS], index[at + _FACTS : at + _FACTS + 20]
        at += (end - at) // 8 * 8 + 8
    return found
