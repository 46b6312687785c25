"""How many sandboxes this machine carries, and whether its disk has room for what they leave."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ridges.contracts.limits import SandboxLimits
from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.settings import ManagerSettings

AGENTS_PER_CORE = 2
"""Agents wait for models most of their time."""
_MEMORY_SHARE = 0.8
"""The rest is for the services, the engine, the page cache."""
_EVALUATIONS_SHARE = 0.25
"""Of that the evaluations', at least."""
_GROUP = Path("/sys/fs/cgroup")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What this process may use of its host."""

    cores: float
    memory_bytes: int


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager runs at once."""

    slots: int
    evaluation_slots: int
    memory_bytes: int
    """All agent sandboxes together."""
    evaluation_memory_bytes: int
    """All evaluation sandboxes together."""


def this_machine() -> Machine:
    """Cores by affinity and control group, memory by the kernel and control group."""
    cores = float(len(os.sched_getaffinity(0)))
    quota, _, period = _first_line(_GROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, int(quota) / int(period))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _first_line(_GROUP / "memory.max")
    if limit.isdigit():
        memory = min(memory, int(limit))
    return Machine(cores=cores, memory_bytes=memory)


def capacity_of(machine: Machine, chosen: ManagerSettings) -> Capacity:
    """What the settings say; where they say nothing, as many ordinary sandboxes as cores and memory carry."""
    ordinary = SandboxLimits().memory_bytes
    usable = int(machine.memory_bytes * _MEMORY_SHARE)
    evaluation_slots = chosen.evaluation_slots or max(1, min(int(machine.cores), usable // ordinary // 2))
    evaluation_memory = max(evaluation_slots * ordinary, int(usable * _EVALUATIONS_SHARE))
    memory = chosen.memory_bytes or max(
        usable - evaluation_memory,
        (chosen.slots or 1) * ordinary,  # slots that were asked for hold at least ordinary sandboxes
    )
    slots = chosen.slots or max(1, min(int(machine.cores * AGENTS_PER_CORE), memory // ordinary))
    return Capacity(
        slots=slots,
        evaluation_slots=evaluation_slots,
        memory_bytes=memory,
        evaluation_memory_bytes=evaluation_memory,
    )


class FreeSpace:
    """The disks that hold state and blobs."""

    def __init__(self, folders: Iterable[Path], min_free_bytes: int) -> None:
        self._folders, self._min_free_bytes = tuple(folders), min_free_bytes

    async def check(self) -> None:
        """Returns when there is room.

        Raises:
            SandboxUnavailable: a sandbox might run whose patch and log could not be kept.
        """
        for folder in self._folders:
            free = shutil.disk_usage(folder).free if folder.exists() else self._min_free_bytes
            if free < self._min_free_bytes:
                raise SandboxUnavailable(
                    f"the disk of {folder} has {free:,} bytes left, {self._min_free_bytes:,} must stay free",
                    "make room, or set RIDGES_MIN_FREE_BYTES lower",
                )


def _first_line(path: Path) -> str:
    try:
        return path.read_text("ascii").partition("\n")[0]
    except OSError:
        return ""
