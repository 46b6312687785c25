"""What the command's process does to itself before it becomes the command, and what the kernel counted of it."""

from __future__ import annotations

import _ctypes  # loads in a fifth of the time that ctypes takes
import os
import resource
import struct

from ridges.sandbox_manager.inside.processes import PR_SET_DUMPABLE, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


def be_first_to_die() -> None:
    """When memory ends, the command goes before the supervisor.

    A process that is not dumpable may not even write its own score; nobody else is there yet to make use of it.
    """
    prctl(PR_SET_DUMPABLE, 1)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def limit(limits: Mapping[str, int]) -> None:
    """Soft and hard limits by name without ``RLIMIT_``; never above the hard ones in force."""
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        now = resource.getrlimit(kind)
        most = value if now[1] == resource.RLIM_INFINITY else min(value, now[1])
        if now != (most, most):  # gVisor refuses to set some of them, to what they are, too
            resource.setrlimit(kind, (most, most))


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - array loads collections for 1.4 ms
    _type_ = "c"


def filter_calls(program: bytes) -> None:
    """A classic BPF program over the system calls of this process and all it starts. Source: seccomp(2).

    Raises:
        OSError: the kernel refused it; the command must not start.
    """
    code = (_Byte * len(program)).from_buffer_copy(program)
    this_process = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # as ctypes.CDLL(None) does
    call = _ctypes.dlsym(this_process, "prctl")
    described = struct.pack("@HP", len(program) // 8, _ctypes.addressof(code))
    # bytes are handed over as a pointer, which an int would not survive
    if _ctypes.call_function(call, (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described)):
        raise OSError("the kernel refused the filter of system calls")


class Written:
    """Bytes that this process and all it has buried passed to write(2): files, pipes, terminals."""

    def __init__(self) -> None:
        """Open it while this process may still look at itself."""
        try:
            self._fd: int | None = os.open("/proc/self/io", os.O_RDONLY)
        except OSError:
            self._fd = None
        self._before = self._count() or 0

    def start(self) -> None:
        """Count from here."""
        self._before = self._count() or 0

    def so_far(self) -> int | None:
        """None where the kernel does not count."""
        count = self._count()
        return None if count is None else max(0, count - self._before)

    def _count(self) -> int | None:
        if self._fd is None:
            return None
        try:
            for line in os.pread(self._fd, 4096, 0).splitlines():
                if line.startswith(b"wchar:"):
                    return int(line[6:])
        except OSError:
            pass
        return None
