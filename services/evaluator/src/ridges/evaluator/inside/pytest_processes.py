"""Processes that run the hidden tests, for ``grade.py``, and the grader's power over all that they start.

Standard library only, Python 3.8 or newer.

Pytest is loaded once. The test processes are forked before the plan is read, so that they know nothing of it, and wait
for their orders; like the grader they cannot be read or traced by others while they wait.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

MAX_PREPARED = 4
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


class GraderFailed(Exception):
    """The sandbox lacks something; found out before any code of the patch ran."""


def seal() -> None:
    """Makes this process unreadable to others, and heir of its descendants' orphans, so that it can end them all."""
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise GraderFailed(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


def end_descendants(spare: frozenset[int] = frozenset()) -> None:
    """Kills every other descendant. Orphans become children of this process, so a few passes reach them all."""
    for _ in range(1000):
        children = [child for child in children_of(os.getpid()) if child not in spare]
        if not children:
            return
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(OSError):
                os.waitpid(child, 0)


def children_of(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as stream:
                fields = stream.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(name))
    return found


def environment() -> dict[str, str]:
    """What of the sandbox's environment is the tests' too, and what pytest must find there."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG", "TZ") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


class TestProcesses:
    """Pytest processes, each for one round: the first few are forked ahead and wait, with pytest loaded."""

    __test__ = False

    def __init__(self, runner: str, load: Callable[[str], types.ModuleType]) -> None:
        """``runner``: source of ``run_tests.py``. ``load``: makes a module of it by its name."""
        self._runner, self._load = runner, load
        self._waiting: list[tuple[int, int]] = []

    def prepare(self, count: int, root: Path | None, folder: Path, go_on: Callable[[], None]) -> None:
        """Calls ``go_on`` when the processes wait. Call it before this one knows what code of the patch must not know.

        Args:
            count: how many there will be.
            root: where the tests are going to be; None where pytest must see them before it is ready to collect.
            folder: the processes' working directory.
            go_on: the rest of the grader. It is called from within pytest: to get out of it would take 5 ms.

        Raises:
            GraderFailed: pytest is not installed.
        """
        if importlib.util.find_spec("pytest") is None:
            raise GraderFailed(f"pytest is not installed for {sys.executable} in the sandbox image")
        own = environment()
        os.environ.clear()
        os.environ.update(own)
        module: Any = self._load("run_tests")
        gc.disable()  # nothing of all this is ever garbage
        module.import_pytest()
        if root is not None and folder.is_dir():
            module.get_ready(str(root), lambda: self._fork_or(count, module, go_on))
        module.run(self._fork_or(count, module, go_on))

    def _fork_or(self, count: int, module: Any, go_on: Callable[[], None]) -> dict[str, Any]:
        """The orders of a test process; in the grader it calls ``go_on`` and ends the process."""
        gc.freeze()
        gc.enable()
        for _ in range(min(count, MAX_PREPARED)):
            orders, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                others = [write_end, *(waiting for _, waiting in self._waiting)]
                return dict(module.await_orders(orders, others))
            os.close(orders)
            self._waiting.append((pid, write_end))
        status = 1
        try:
            go_on()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def run(
        self, orders: dict[str, Any], python_path: list[str], folder: Path, timeout_s: float
    ) -> tuple[int | None, bool]:
        """(Exit code, whether it was ended because its time was over). Afterwards only waiting ones are left."""
        sys.stdout.flush()
        env = {**environment(), "PYTHONPATH": os.pathsep.join(python_path)}
        told = json.dumps({**orders, "environment": env, "folder": str(folder)}).encode()
        give_up_at = time.monotonic() + max(timeout_s, 1)
        pid, orders_fd = self._waiting.pop(0) if self._waiting else self._start()
        try:
            send(orders_fd, told, give_up_at)
            return wait_for(pid, give_up_at)
        finally:
            end_descendants(spare=frozenset(waiting for waiting, _ in self._waiting))

    def _start(self) -> tuple[int, int]:
        orders, write_end = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", self._runner], stdin=orders, start_new_session=True
        )  # fmt: skip
        os.close(orders)
        child.returncode = 0  # waited for by its id
        return child.pid, write_end


def send(fd: int, content: bytes, give_up_at: float) -> None:
    """To a process that may be dead or stopped. Closes the descriptor."""
    os.set_blocking(fd, False)
    try:
        while content and select.select([], [fd], [], max(give_up_at - time.monotonic(), 0))[1]:
            content = content[os.write(fd, content) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def until_it_ends(pid: int, give_up_at: float) -> None:
    """Returns at a child's end or when its time is over; where the kernel cannot tell, at once."""
    try:
        end = os.pidfd_open(pid)
    except (AttributeError, OSError):  # Python 3.8, Linux 5.2, or a system call filter
        return
    try:
        select.select([end], [], [], max(give_up_at - time.monotonic(), 0))
    finally:
        os.close(end)


def wait_for(pid: int, give_up_at: float) -> tuple[int | None, bool]:
    """Exit code of a child (negative: signal); (None, True) when it had to be killed."""
    pause = 0.001
    while True:
        until_it_ends(pid, give_up_at)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), False
        left = give_up_at - time.monotonic()
        if left <= 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None, True
        pause = min(pause * 1.5, 0.02, left)
        time.sleep(pause)
