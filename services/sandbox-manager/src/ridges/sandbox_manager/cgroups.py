"""Control groups of our own for sandboxes that no engine looks after: memory, pids, CPU; versions 1 and 2.

Groups are made below the group of this process (its limits stay in force), or beside it where systemd delegated the
parent.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.owner import Mark
from ridges.sandbox_manager.wire import Measured

_V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_CPU_PERIOD_US = 100_000
_REMOVAL_PATIENCE_S = 5.0
COLLECTING_BYTES = 128 * MIB
"""Above the limit, for what is done after the command's end."""


class ControlGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The group of one sandbox: one directory (version 2) or one per controller (version 1)."""

    directories: dict[str, Path]
    """Controller -> directory."""
    version: int

    def limit(self, limits: SandboxLimits) -> None:
        """Set the limits; memory must work, the others are taken where the machine has them."""
        quota = max(1000, int(limits.cpus * _CPU_PERIOD_US))
        if self.version == 1:
            _write(self.directories["memory"] / "memory.limit_in_bytes", limits.memory_bytes)
            optional: list[tuple[str, str, object]] = [
                ("memory", "memory.memsw.limit_in_bytes", limits.memory_bytes),
                ("pids", "pids.max", limits.pids),
                ("cpu", "cpu.cfs_period_us", _CPU_PERIOD_US),
                ("cpu", "cpu.cfs_quota_us", quota),
            ]
        else:
            _write(self.directories["memory"] / "memory.max", limits.memory_bytes)
            optional = [
                ("memory", "memory.swap.max", 0),
                ("pids", "pids.max", limits.pids),
                ("cpu", "cpu.max", f"{quota} {_CPU_PERIOD_US}"),
            ]
        for controller, name, value in optional:
            if controller in self.directories:
                with contextlib.suppress(OSError):
                    _write(self.directories[controller] / name, value)

    def add(self, pid: int) -> None:
        """Put a process in; what it starts from now on is in too."""
        for directory in set(self.directories.values()):
            _write(directory / "cgroup.procs", pid)

    def measured(self) -> Measured:
        """What the group used so far."""
        memory, cpu = self.directories["memory"], self.directories.get("cpuacct") or self.directories.get("cpu")
        if self.version == 1:
            kills = _keyed(memory / "memory.oom_control").get("oom_kill", 0)
            peak = _number(memory / "memory.max_usage_in_bytes")
            nanoseconds = _number(cpu / "cpuacct.usage") if cpu else None
            cpu_s = None if nanoseconds is None else nanoseconds / 1e9
        else:
            kills = _keyed(memory / "memory.events").get("oom_kill", 0)
            peak = _number(memory / "memory.peak")
            microseconds = _keyed(memory / "cpu.stat").get("usage_usec")
            cpu_s = None if microseconds is None else microseconds / 1e6
        pids = self.directories.get("pids")
        pids_peak = _number(pids / "pids.peak") if pids else None
        return Measured(out_of_memory=kills > 0, cpu_s=cpu_s, peak_memory_bytes=peak, pids_peak=pids_peak)

    def grant(self, limit_bytes: int) -> None:
        """Raise the memory limit, once everything but the supervisor is dead: what the command left must not starve it.

        Files in memory file systems outlive their writers, and a group that is full of them cannot hand over anything.
        """
        memory = self.directories["memory"]
        names = ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes") if self.version == 1 else ("memory.max",)
        for name in names:
            with contextlib.suppress(OSError):
                _write(memory / name, limit_bytes)

    async def remove(self) -> None:
        """Kill what is in it, remove it. Raises ``OSError`` when a process does not go."""
        pause_s, waited_s = 0.0005, 0.0
        while True:
            self._kill()
            try:
                for directory in set(self.directories.values()):
                    with contextlib.suppress(FileNotFoundError):
                        directory.rmdir()
                return
            except OSError:
                if waited_s >= _REMOVAL_PATIENCE_S:
                    raise
            pause_s = min(2 * pause_s, 0.02)  # what was killed is mostly gone after a millisecond
            waited_s += pause_s
            await asyncio.sleep(pause_s)

    def _kill(self) -> None:
        for directory in set(self.directories.values()):
            with contextlib.suppress(OSError, ValueError):
                for pid in _read(directory / "cgroup.procs").split():
                    os.kill(int(pid), 9)


def group_of_container(container_id: str) -> ControlGroup | None:
    """The group that an engine on this host made for a container; None where it cannot be seen from here."""
    names = (f"docker/{container_id}", f"system.slice/docker-{container_id}.scope")
    directories: dict[str, Path] = {}
    for kind, _, point, options in _mounts():
        found = next((path for name in names if (path := Path(point) / name).is_dir()), None)
        if found is None:
            continue
        if kind == "cgroup2" and (found / "memory.max").exists():
            return ControlGroup(directories=dict.fromkeys(("memory", "pids", "cpu"), found), version=2)
        if kind == "cgroup":
            directories |= dict.fromkeys(set(options) & set(_V1_CONTROLLERS), found)
    return ControlGroup(directories=directories, version=1) if "memory" in directories else None


class ControlGroups:
    """Where this process may make groups."""

    def __init__(self, parents: dict[str, Path], version: int, own: Path) -> None:
        """``parents`` by controller; ``own`` is the group of this process, one of them with version 1."""
        self._parents, self._version, self._own = parents, version, own

    @classmethod
    def find(cls) -> "ControlGroups | None":
        """None when memory cannot be limited here."""
        mounts = list(_mounts())
        own = _own_groups()
        v1 = {
            controller: path
            for controller in _V1_CONTROLLERS
            if (path := _locate(mounts, own.get(controller), "cgroup", controller)) and os.access(path, os.W_OK)
        }
        if "memory" in v1:
            return cls(v1, 1, v1["memory"])
        unified = _locate(mounts, own.get(""), "cgroup2", None)
        for parent in (unified, unified and unified.parent):
            if unified and parent and os.access(parent, os.W_OK) and "memory" in (controllers := _delegated(parent)):
                return cls(dict.fromkeys(controllers, parent), 2, unified)
        return None

    def create(self, mark: Mark, limits: SandboxLimits) -> ControlGroup:
        """A limited group. Raises ``OSError`` when the kernel does not let us; then nothing is left."""
        made: dict[str, Path] = {}
        group = ControlGroup(directories=made, version=self._version)
        try:
            for controller, parent in self._parents.items():
                (parent / str(mark)).mkdir(exist_ok=True)
                made[controller] = parent / str(mark)
            group.limit(limits)
        except OSError:
            for directory in set(made.values()):
                directory.rmdir()
            raise
        return group

    def expect(self) -> None:
        """A process will be put into a group soon. The kernel waits up to 12 ms before the first one, then none of the
        next 15 ms: let it wait now, for a move that changes nothing, while the process is made.
        """
        with contextlib.suppress(OSError):
            _write(self._own / "cgroup.procs", os.getpid())

    async def sweep(self, live: set[str]) -> int:
        """Remove groups of dead managers and lost sandboxes; how many."""
        leftovers: dict[str, dict[str, Path]] = {}
        for controller, parent in self._parents.items():
            for path in parent.iterdir():
                mark = Mark.read(path.name)
                if mark and mark.is_leftover(live):
                    leftovers.setdefault(path.name, {})[controller] = path
        for directories in leftovers.values():
            with contextlib.suppress(OSError):
                await ControlGroup(directories=directories, version=self._version).remove()
        return len(leftovers)


def _own_groups() -> dict[str, str]:
    """Controller ("" = version 2) -> path of this process's group."""
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _mounts() -> Iterator[tuple[str, str, str, set[str]]]:
    """(type, root, mount point, options) of every cgroup mount."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = before.split(" ")
            yield kind, fields[3], fields[4], set(options.split(","))


def _locate(
    mounts: Iterable[tuple[str, str, str, set[str]]], group: str | None, kind: str, option: str | None
) -> Path | None:
    for mounted, root, point, options in mounts:
        if group is None or mounted != kind or (option and option not in options):
            continue
        below = group.removeprefix(root) if root != "/" else group
        if (path := Path(point) / below.lstrip("/")).is_dir():
            return path
    return None


def _delegated(parent: Path) -> set[str]:
    """Controllers that groups below a version 2 parent have, switched on where that is allowed."""
    control = parent / "cgroup.subtree_control"
    for controller in ("memory", "pids", "cpu"):
        with contextlib.suppress(OSError):
            _write(control, f"+{controller}")
    try:
        return set(control.read_text().split()) & {"memory", "pids", "cpu"}
    except OSError:
        return set()


def _write(path: Path, value: object) -> None:
    """Some thirty files of the kernel are written and read for a sandbox: file objects would cost more than they do."""
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, str(value).encode())
    finally:
        os.close(handle)


def _read(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(handle, 65_536), b"")).decode()
    finally:
        os.close(handle)


def _number(path: Path) -> int | None:
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def _keyed(path: Path) -> dict[str, int]:
    try:
        return {key: int(value) for key, value in (line.split() for line in _read(path).splitlines())}
    except (OSError, ValueError):
        return {}
