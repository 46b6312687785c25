"""Watches a sandbox's memory where no control group does: its processes and temporary file systems, from outside."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

INTERVAL_S = 0.1
_INODE_BYTES = 1024
"""Kernel memory of a file in a temporary file system, however empty: inode and directory entry."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(msgspec.Struct, kw_only=True):
    """The highest figure so far."""

    peak_bytes: int = 0


async def watch_memory(
    started: asyncio.Event,
    pid: int,
    limit_bytes: int,
    mounts: tuple[str, ...],
    usage: Usage,
    on_exceeded: Callable[[], None],
) -> None:
    """Runs until cancelled or until the limit was exceeded.

    Args:
        started: wait for it; before, the process may not have its mount tree yet.
        pid: the sandbox's first process; everything below it counts.
        limit_bytes: for resident memory plus used temporary file systems.
        mounts: temporary file systems inside, by absolute path; none when the sandbox has no mount tree of its own.
        usage: kept up to date.
        on_exceeded: called once.
    """
    await started.wait()
    while True:
        used = resident_bytes(pid, precise=False) + _mounted_bytes(pid, mounts)
        if used > limit_bytes:
            # shared pages were counted once per process: count again, exactly
            used = resident_bytes(pid, precise=True) + _mounted_bytes(pid, mounts)
        usage.peak_bytes = max(usage.peak_bytes, used)
        if used > limit_bytes:
            on_exceeded()
            return
        await asyncio.sleep(INTERVAL_S)


def resident_bytes(pid: int, *, precise: bool) -> int:
    """Memory of a process and everything below it."""
    return sum(_proportional(each) if precise else _resident(each) for each in _family(pid))


def _family(pid: int) -> Iterator[int]:
    queue = [pid]
    while queue:
        pid = queue.pop()
        yield pid
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                queue += map(int, (thread / "children").read_text().split())
        except OSError:
            continue


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return _resident(pid)
    return 0


def _mounted_bytes(pid: int, mounts: tuple[str, ...]) -> int:
    used = 0
    for mount in mounts:
        try:
            facts = os.statvfs(f"/proc/{pid}/root{mount}")
        except OSError:
            continue
        used += (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        used += (facts.f_files - facts.f_ffree) * _INODE_BYTES
    return used
