"""Being the first process of a sandbox: out of reach of the others, able to end all of them."""

from __future__ import annotations

import _ctypes  # loads in a fifth of the time that ctypes takes
import os
import time

SIGKILL = 9
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 20.0


class Undead(Exception):
    """A process outlived SIGKILL: it hangs in the kernel."""


def step_out_of_reach() -> None:
    """No other process of this uid may trace this one, or open its memory or descriptors (Source: prctl(2), ptrace(2)).

    Where it is not PID 1 (no sandbox at all) it also collects orphans and ends with the process that started it.
    """
    prctl(PR_SET_DUMPABLE, 0)
    if os.getpid() != 1:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_PDEATHSIG, SIGKILL)


def prctl(option: int, value: int) -> None:
    """One option of this process."""
    this_process = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # as ctypes.CDLL(None) does
    address = _ctypes.dlsym(this_process, "prctl")
    if _ctypes.call_function(address, (option, value, 0, 0, 0)) != 0:
        raise OSError(f"prctl({option}, {value}) failed")


def kill_all() -> None:
    """End every other process of the sandbox and reap it. Raises ``Undead`` when one does not go."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        _signal_all()
        if _reap_all():
            return
        if time.monotonic() > give_up_at:
            raise Undead(f"a process outlived SIGKILL for {PATIENCE_S} seconds")
        time.sleep(0.002)


def _reap_all() -> bool:
    """True when there is no child left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _signal_all() -> None:
    victims = [-1] if os.getpid() == 1 else _descendants(os.getpid())
    for pid in victims:
        try:
            os.kill(pid, SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _descendants(root: int) -> list[int]:
    """Pids below a process, by /proc: there is no pid namespace to make ``kill(-1)`` safe."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found
