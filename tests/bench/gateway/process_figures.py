"""CPU and memory of a server's processes, and how busy the rest of the machine was meanwhile."""

import mmap
import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil


def tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int | None) -> float:
    """User and system seconds of the process, its descendants, and those of them that ended."""
    total = 0.0
    for process in tree(pid) if pid else []:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def memory_mb(pid: int) -> tuple[float, float]:
    """(RSS, PSS) of the process tree."""
    rss = pss = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            full = process.memory_full_info()
            rss, pss = rss + full.rss / 1e6, pss + full.pss / 1e6
    return rss, pss


class MachineWatch:
    """How much of the machine others used, in processes that are not part of the benchmark."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._busy, self._ours, self._at = _busy_s(), self._ours_s(), time.monotonic()

    def others_share(self) -> float:
        """0 to 1, since this watch was made."""
        capacity = (time.monotonic() - self._at) * (os.cpu_count() or 1)
        others = _busy_s() - self._busy - (self._ours_s() - self._ours)
        return min(1.0, max(0.0, others / capacity))

    def _ours_s(self) -> float:
        return sum(os.times()[:4]) + sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in self._pids)


def wait_for_calm(most_share: float, patience_s: float) -> float:
    """Waits until others use less of the machine; returns the share they use now."""
    deadline = time.monotonic() + patience_s
    while True:
        watch = MachineWatch()
        time.sleep(2)
        share = watch.others_share()
        if share < most_share or time.monotonic() > deadline:
            return share


def touch_memory() -> None:
    """Use most of the free memory once and give it back.

    A virtual machine gets a page from its host when it first touches it, and that takes 9 us a page here: a write of
    256 kB to the page cache 600 us in place of 45. What is measured would be how long the machine is up.
    """
    size = psutil.virtual_memory().free // 10 * 8
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def fsync_ms(folder: Path) -> float:
    """Median time to make 4 kB durable here: what bounds every durable append."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.irq + times.softirq)
