"""Lets an unprivileged bwrap read what lies below directories closed to it (an interpreter below /root, say).

A manager that runs as root starts bwrap under an unprivileged host uid. Sources which that uid cannot reach are
mounted, in a mount namespace of the child alone, below one empty directory of ours. The host sees nothing of it, and
nothing is left.
"""

import ctypes
import os
import stat
from collections.abc import Callable
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


class Stage:
    """Where the sources of one start are found by the unprivileged child."""

    def __init__(self, directory: Path, uid: int | None) -> None:
        self._directory, self._uid = directory, uid
        self._places: dict[Path, Path] = {}

    def reachable(self, source: Path) -> Path:
        """The path under which the child will see a directory."""
        if self._uid is None or _open_to_all(source):
            return source
        return self._places.setdefault(source, self._directory / str(len(self._places)))

    def prepare(self) -> Callable[[], None] | None:
        """What the child does before it becomes bwrap: mounts, then the uid. None = nothing to do."""
        uid, places, directory = self._uid, self._places, self._directory
        if uid is None:
            return None
        if places:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)

        def in_child() -> None:
            if places:
                _mount_all(directory, places)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)

        return in_child


def _mount_all(directory: Path, places: dict[Path, Path]) -> None:
    _check(_libc.unshare(_CLONE_NEWNS))
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("stage", str(directory), "tmpfs", 0, "mode=755,size=64k")
    for source, place in places.items():
        place.mkdir()
        _mount(str(source), str(place), None, _MS_BIND | _MS_REC)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _check(_libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _open_to_all(path: Path) -> bool:
    """Any uid can get there. Symlinks on the way are followed."""
    resolved = path.resolve()
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in (resolved, *resolved.parents)) and all(
        directory.stat().st_mode & stat.S_IXOTH for directory in path.absolute().parents
    )
