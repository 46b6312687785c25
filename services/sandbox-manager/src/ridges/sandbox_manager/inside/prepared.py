"""A process that waits to become the command, with the modules of its program loaded already.

It was forked before anything of the task was known, and knows nothing that the command must not: neither the nonce nor
files of the task. For Python scripts only; a script finds what ``python3 <script>`` gives it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal loads enum for 5 ms
import ctypes
import marshal
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Become = Callable[[int, Mapping[str, Any]], None]

_SIZE = struct.Struct(">I")


class Prepared:
    """The waiting process, seen from process 1."""

    def __init__(self, become: Become) -> None:
        """Forks it. Call before stdin was read.

        Args:
            become: what it does to itself first, given the descriptor for its output and what ``go`` was given.
        """
        self.output, write_end = os.pipe()
        """What the command will write to stdout and stderr."""
        orders, self._orders = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._orders)
            os.close(self.output)
            _wait(orders, write_end, become)
        os.close(orders)
        os.close(write_end)

    def go(self, task: dict[str, Any]) -> int:
        """Let it be the command; its pid. The task is a dict of literals: ``script``, ``command``, ``environment``."""
        message = marshal.dumps(task)
        message = _SIZE.pack(len(message)) + message
        while message:
            message = message[os.write(self._orders, message) :]
        os.close(self._orders)
        return self._pid


def _wait(orders: int, output: int, become: Become) -> None:
    """Never returns."""
    status = 127
    try:
        with open(os.devnull, "rb", buffering=0) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        task = marshal.loads(_exactly(orders, *_SIZE.unpack(_exactly(orders, _SIZE.size))))  # noqa: S302  # process 1's
        os.close(orders)
        become(1, task)
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # as an interpreter does when it starts
            _signal.signal(number, _signal.SIG_IGN)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        os.environ.update(task["environment"])
        forget_outside()
        sys.orig_argv = list(task["command"])
        retitle(sys.orig_argv)
        status = run_script(task["script"])
    except BaseException as error:
        os.write(2, f"cannot start the command: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)


def _exactly(fd: int, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = os.read(fd, size - len(content))
        if not piece:
            os._exit(127)  # nobody needs it
        content += piece
    return content


def forget_outside() -> None:
    """What only the fork server's interpreter has: our modules, and places for modules that are not in the sandbox."""
    for name in [name for name in sys.modules if name.startswith("ridges.")]:
        del sys.modules[name]
    for place in [place for place in sys.path if not place.endswith(".zip") and not os.path.isdir(place)]:
        sys.path.remove(place)
        sys.path_importer_cache.pop(place, None)


def retitle(command: Sequence[str]) -> None:
    """What whoever looks at the process sees from now on. Source: proc(5), ``arg_start``, ``arg_end``."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    title = b"\0".join(os.fsencode(word) for word in command)[: max(0, end - start - 1)]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title, len(title))


def run_script(arguments: Sequence[str]) -> int:
    """The script as ``__main__``, to its end; the exit code that the interpreter would have."""
    path = os.path.abspath(arguments[0])
    if not sys.flags.isolated:
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    sys.argv = list(arguments)
    main = sys.modules["__main__"] = type(sys)("__main__")
    main.__file__ = path
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        exec(code, main.__dict__)  # noqa: S102  # it is the command
        status = 0
    except SystemExit as end:
        status = _exit_code(end)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    return _flushed(status)


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


def _flushed(status: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 120  # as the interpreter's own
    return status
