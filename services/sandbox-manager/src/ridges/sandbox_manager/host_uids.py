"""A host uid per running sandbox, for managers that run as root: no sandbox is ever uid 0, no two share one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ridges.sandbox_manager.errors import SandboxUnavailable

_COUNT = 1024
_RANGES = (1_879_100_000, 64_000)
"""First uids. The first lies in the part that systemd leaves unassigned; the second is for uid maps of 65,536.

Source: systemd, docs/UIDS-GIDS.md."""


@contextmanager
def host_uid(lock_dir: Path) -> Iterator[int | None]:
    """A uid that no other sandbox on this host has while the context lasts; None when this process is not root.

    Args:
        lock_dir: shared by all managers of this host; made when it is missing.

    Raises:
        SandboxUnavailable: all are taken, or the uid map of this container is too small.
    """
    if os.geteuid() != 0:
        yield None
        return
    lock_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    uid, lock = _take(lock_dir, _first_uid())
    try:
        yield uid
    finally:
        os.close(lock)


def _take(lock_dir: Path, first: int) -> tuple[int, int]:
    for uid in range(first, first + _COUNT):
        lock = os.open(lock_dir / str(uid), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return uid, lock
    raise SandboxUnavailable(f"all {_COUNT} sandbox uids of this host are in use", "run fewer sandboxes at once")


def _first_uid() -> int:
    for first in _RANGES:
        if _mapped(first) and _mapped(first + _COUNT):
            return first
    raise SandboxUnavailable(
        "this container's uid map has no unprivileged uids",
        "run the sandbox-manager as an ordinary user instead of root",
    )


def _mapped(uid: int) -> bool:
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = map(int, line.split())
        if inside <= uid < inside + count:
            return True
    return False
