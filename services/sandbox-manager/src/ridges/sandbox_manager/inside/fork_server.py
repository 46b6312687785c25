"""Forks processes that become sandboxes. Runs outside of them, on their interpreter, with what they need loaded.

``python … <size of program> <descriptor of the control socket> <modules to load> [-- <working directory in sandboxes>
<arguments of a pytest that is to be ready>]``. Each message on the socket
(SOCK_SEQPACKET) asks for one sandbox by the descriptors for its order (a dict, marshalled), its stdin, stdout, stderr
and info (as bwrap's ``--info-fd``). The answer is the pid of the sandbox's keeper, and its pidfd; or the negative
number of the error. The end of the socket ends this process, and with it every sandbox. It reads no order and no task
itself: what is forked from it knows nothing of any other sandbox.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal loads enum for 5 ms
import _socket
import ctypes
import gc
import importlib
import marshal
import os
import pkgutil
import select
import struct
import sys

from ridges.sandbox_manager.inside.confining import keep, seal
from ridges.sandbox_manager.inside.prepared import Prepared, retitle
from ridges.sandbox_manager.inside.processes import PR_SET_PDEATHSIG, SIGKILL, prctl
from ridges.sandbox_manager.inside.ready_pytest import make as make_ready
from ridges.sandbox_manager.inside.supervisor import become
from ridges.sandbox_manager.inside.supervisor import main as supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 1 << 16
DESCRIPTORS = 5
PIDFD_OPEN = 434
NOT_CONFINED = 125
_NUMBER = struct.Struct("=i")


def main() -> None:
    """Serve until the manager is gone."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    control = _socket.socket(fileno=int(sys.argv[2]))
    modules, pytest = sys.argv[3:], []
    if "--" in modules:
        at = modules.index("--")
        modules, pytest = modules[:at], modules[at + 1 :]
    if sys.path[:1] == [""]:  # the working directory: for a script it is the script's
        del sys.path[0]
    load(modules)
    if pytest:
        make_ready(pytest[0], pytest[1:], lambda: serve(control, modules))
    serve(control, modules)


def serve(control: _socket.socket, modules: list[str]) -> None:
    """Until the manager is gone; ends the process."""
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.signal(_signal.SIGCHLD, lambda *_: bury())
    retitle(["ridges fork server", *modules])
    control.send(b"ready")
    own_pid = os.getpid()
    while True:
        asked, ancillary, _, _ = control.recvmsg(MAX_BYTES, _socket.CMSG_SPACE(DESCRIPTORS * _NUMBER.size))
        if not asked:
            os._exit(0)
        fds = [each for _, _, data in ancillary for (each,) in _NUMBER.iter_unpack(data)]
        _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGCHLD])  # none is buried before it is told
        try:
            pid = os.fork()
        except OSError as error:
            control.send(_NUMBER.pack(-(error.errno or 1)))
        else:
            if pid == 0:
                live(fds, own_pid, loaded=bool(modules))
            answer(control, pid)
        for fd in fds:
            os.close(fd)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGCHLD])


def load(modules: list[str]) -> None:
    """Modules of the installation, ``package.*`` with all that it consists of; those that do not load are left."""
    for name in modules:
        try:
            package = importlib.import_module(name[:-2] if name.endswith(".*") else name)  # noqa: FURB188  # Python 3.8
        except Exception:  # noqa: S112  # who needs it finds the same, and says so
            continue
        if name.endswith(".*"):
            parts = [found.name for found in pkgutil.iter_modules(package.__path__)]
            load([f"{package.__name__}.{part}" for part in parts if part != "__main__"])


def bury() -> None:
    """Keepers that have ended; the manager has seen it by their pidfd."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def answer(control: _socket.socket, pid: int) -> None:
    pidfd = ctypes.CDLL(None).syscall(PIDFD_OPEN, pid, 0)
    control.sendmsg([_NUMBER.pack(pid)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _NUMBER.pack(pidfd))])
    os.close(pidfd)


def live(fds: list[int], server: int, *, loaded: bool) -> None:
    """The life of one sandbox, in a process of its own. Never returns."""
    status = NOT_CONFINED
    ordered, *standard, info = fds
    try:
        retitle(["ridges sandbox"])
        for number, fd in enumerate(standard):
            os.dup2(fd, number)
        order: dict[str, Any] = marshal.loads(os.read(ordered, MAX_BYTES))  # noqa: S302  # the manager's
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGCHLD])
        keep(order["uid"], order["steps"], info, server)
        os.chdir(order["workspace"])
        os.environ.clear()
        seal(order["seccomp"])
        select.select([0], [], [])  # what comes is not read yet: it says that this process is in its control group
        prepared = Prepared(become) if loaded else None
        status = 1
        supervise(prepared)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        os.write(2, f"fork server: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)
