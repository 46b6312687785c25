"""PID 1 of a sandbox: files in, command under limits, every process dead, results out.

Reads a header and tars from stdin, then single control bytes; writes frames to stdout (both described in ``wire``). The
end of stdin means that the manager is gone: everything ends at once.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal loads enum for 5 ms
import os
import resource
import struct
import sys
import time
from _json import encode_basestring_ascii

from ridges.sandbox_manager.inside.confinement import Written, be_first_to_die, filter_calls, limit
from ridges.sandbox_manager.inside.forwarder import Forwarder
from ridges.sandbox_manager.inside.live_log import LiveLog
from ridges.sandbox_manager.inside.outbox import Outbox
from ridges.sandbox_manager.inside.poller import READ, Poller
from ridges.sandbox_manager.inside.processes import Undead, kill_all, step_out_of_reach
from ridges.sandbox_manager.inside.repository import Base, GitFailed, empty
from ridges.sandbox_manager.inside.snapshots import Snapshots
from ridges.sandbox_manager.inside.workspace import read_output, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ridges.sandbox_manager.inside.prepared import Prepared

    Header = dict[str, Any]

CHUNK = 1 << 18
COLLECT_S = 60.0
DISMISSAL_S = 10.0
CONTINUATIONS = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that do not begin a character."""
CANCEL, OUT_OF_MEMORY = b"C", b"M"


class ManagerGone(Exception):
    """Nobody waits for a result."""


class Log:
    """The end of what the command wrote, and how many characters were before it."""

    def __init__(self, max_bytes: int) -> None:
        self.dropped_chars = 0
        self._max_bytes = max_bytes
        self._end = bytearray()

    def add(self, chunk: bytes) -> None:
        self._end += chunk
        if len(self._end) > 2 * self._max_bytes:
            self._trim()

    def content(self) -> bytes:
        self._trim()
        return bytes(self._end)

    def _trim(self) -> None:
        surplus = len(self._end) - self._max_bytes
        if surplus > 0:
            self.dropped_chars += len(self._end[:surplus].translate(None, CONTINUATIONS))
            del self._end[:surplus]


class Stdin:
    """The manager's side of the conversation, read to the byte: what follows the tars are control bytes."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.limit = 0

    def exactly(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            piece = os.read(self.fd, min(CHUNK, size - len(content)))
            if not piece:
                raise ManagerGone
            content += piece
        return bytes(content)

    def read(self, size: int) -> bytes:
        """Up to the tar's end: never reads past the current tar."""
        content = self.exactly(min(size, self.limit))
        self.limit -= len(content)
        return content


class Command:
    """The program nobody trusts, from start to end."""

    def __init__(
        self,
        header: Header,
        poller: Poller,
        control: Stdin,
        live: LiveLog | None,
        snapshots: Snapshots | None,
        prepared: Prepared | None,
    ) -> None:
        self.log = Log(header["log_bytes"])
        self._prepared = prepared if header["script"] else None
        self._live = live
        self._snapshots = snapshots
        self.exit_code: int | None = None
        self.ended_by = ""
        self.wall_s = 0.0
        self._header = header
        self._poller = poller
        self._control = control

    def run(self, environment: dict[str, str], forwarder: Forwarder | None) -> None:
        """Returns when it has exited, or must not go on; its processes may still be there."""
        child_ended, wake = os.pipe()
        os.set_blocking(wake, False)
        _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        started = time.monotonic()
        pid, pipe = self._start(environment)
        os.set_blocking(pipe, False)
        self._poller.watch(pipe, READ, lambda _: self._pump(pipe))
        self._poller.watch(child_ended, READ, lambda _: self._reap(pid, child_ended))
        self._poller.watch(self._control.fd, READ, lambda _: self._obey())
        deadline = started + self._header["timeout_s"]
        while not self.ended_by:
            left = deadline - time.monotonic()
            if left <= 0:
                self.ended_by = "timeout"
                break
            retry = forwarder.next_retry_s if forwarder else None
            due = [each.due_in_s for each in (self._live, self._snapshots) if each]
            self._poller.poll(min(left, retry or left, *(left if at is None else at for at in due)))
            if retry is not None and forwarder:
                forwarder.retry()
            if self._live:
                self._live.tell()
            if self._snapshots:
                self._snapshots.advance()
        self.wall_s = time.monotonic() - started
        if self._snapshots:
            self._snapshots.stop()
        _signal.set_wakeup_fd(-1)
        kill_all()
        while self._pump(pipe):
            pass

    def _pump(self, pipe: int) -> bool:
        try:
            chunk = os.read(pipe, CHUNK)
        except BlockingIOError:
            return False
        if chunk:
            self.log.add(chunk)
            if self._live:
                self._live.add(chunk)
        else:
            self._poller.forget(pipe)
        return bool(chunk)

    def _obey(self) -> None:
        order = os.read(self._control.fd, 1)
        if not order:
            raise ManagerGone
        self.ended_by = {CANCEL: "cancel", OUT_OF_MEMORY: "memory"}.get(order, "")

    def _reap(self, command: int, child_ended: int) -> None:
        os.read(child_ended, 4096)
        try:
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == command:
                    self.exit_code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                    self.ended_by = "exit"
                elif self._snapshots:
                    self._snapshots.ended(pid, status, used.ru_utime + used.ru_stime)
        except ChildProcessError:
            pass

    def _start(self, environment: dict[str, str]) -> tuple[int, int]:
        """Its pid, and what it writes."""
        task = {name: self._header[name] for name in ("rlimits", "workspace", "seccomp", "script", "command")}
        if self._prepared:
            return self._prepared.go({**task, "environment": environment}), self._prepared.output
        pipe, write_end = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write_end)
            return pid, pipe
        command = self._header["command"]
        try:
            become(write_end, task)
            os.execvpe(command[0], command, environment)  # noqa: S606  # as asked
        except BaseException as error:
            os.write(2, f"cannot start {command[0]!r}: {error}\n".encode("utf-8", "replace"))
        os._exit(127)


def become(output: int, task: Mapping[str, Any]) -> None:
    """All that makes this process the command's, but its program: session, output, signals, limits, directory."""
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGINT, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_DFL)
    be_first_to_die()
    limit(task["rlimits"])
    os.chdir(task["workspace"])
    if task["seccomp"]:
        filter_calls(task["seccomp"])


def _temporary() -> str:
    return os.environ.get("TMPDIR", "/tmp")  # noqa: S108  # the sandbox's own


def _collect(base: Base, max_bytes: int, mounted: list[str]) -> tuple[bytes | None, str | None]:
    """The difference, or why there is none. git works in a child: it can be ended, and its memory is not PID 1's."""
    directory = _temporary()
    in_sandbox = os.getpid() == 1
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if not base.is_untouched():
                if in_sandbox:  # the temporary directory is its own: make room in it
                    empty(directory, mounted)
                base.write_difference(os.path.join(directory, ".ridges-difference"), write_end)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"cannot compute the difference: {error!r}\n".encode("utf-8", "replace"))
        os._exit(1)
    os.close(write_end)
    os.set_blocking(read_end, False)
    difference, problem = _read_difference(read_end, max_bytes)
    os.close(read_end)
    if problem is None:
        _, status = os.waitpid(pid, 0)
        if status:
            problem = "git could not compute the difference"
    kill_all()
    return (None, problem) if problem else (difference, None)


def _read_difference(fd: int, max_bytes: int) -> tuple[bytes, str | None]:
    content = bytearray()
    ended: list[bool] = []

    def on_readable(_mask: int) -> None:
        chunk = os.read(fd, CHUNK)
        content.extend(chunk)
        if not chunk:
            ended.append(True)

    poller = Poller()
    poller.watch(fd, READ, on_readable)
    give_up_at = time.monotonic() + COLLECT_S
    while not ended:
        left = give_up_at - time.monotonic()
        if left <= 0:
            return b"", f"git took longer than {COLLECT_S} s to compute the difference"
        poller.poll(left)
        if len(content) > max_bytes:
            return b"", f"the difference is larger than {max_bytes} bytes"
    return bytes(content), None


class Frames:
    """Writes to a private copy of stdout that no other process ever has."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, kind: bytes, payload: list[bytes]) -> None:
        for piece in [struct.pack(">cQ", kind, sum(map(len, payload))), *payload]:
            view = memoryview(piece)
            while view:
                view = view[os.write(self.fd, view) :]


def cpu_s(*whose: int) -> float:
    """Processor time so far; of children when they are reaped."""
    used = [resource.getrusage(each) for each in whose or (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def as_json(value: Any) -> str:
    """The value as JSON; the module for it takes 3 ms to load."""
    if isinstance(value, dict):
        return "{" + ",".join(encode_basestring_ascii(key) + ":" + as_json(each) for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(as_json, value)) + "]"
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    return repr(value).lower() if isinstance(value, bool) else repr(value)


def _run(control: Stdin, frames: Frames, written: Written, prepared: Prepared | None) -> None:
    (size,) = struct.unpack(">I", control.exactly(4))
    own_cpu_s = -cpu_s()
    header: Header = eval(control.exactly(size))  # noqa: S307  # a literal, trusted as this program is: it came the same way
    os.makedirs(header["workspace"], exist_ok=True)
    for size in header["tars"]:
        control.limit = size
        unpack(control.read, header["workspace"])
        control.exactly(control.limit)
    base = Base(os.path.join(header["workspace"], "repo")) if header["repo"] else None
    mounted = os.listdir(_temporary()) if os.path.isdir(_temporary()) else []
    poller = Poller()
    forwarder = Forwarder(poller, header["proxy_socket"], header["proxy_port"]) if header["proxy_socket"] else None
    url = forwarder.url if forwarder else header["proxy_url"]
    environment = {name: value.replace("{proxy_url}", url) for name, value in header["env"].items()}
    frames.write(b"S", [])
    outbox = Outbox(frames.fd, poller)
    live = LiveLog(outbox) if header["live_log"] else None
    snapshots = Snapshots(base, header, poller, outbox) if base and header["difference_every_s"] else None
    command = Command(header, poller, control, live, snapshots, prepared)
    written.start()
    own_cpu_s, before_s = own_cpu_s + cpu_s(), cpu_s(resource.RUSAGE_CHILDREN)
    command.run(environment, forwarder)
    outbox.finish()
    if forwarder:
        forwarder.close()
    frames.write(b"C", [])
    used, written_bytes = resource.getrusage(resource.RUSAGE_CHILDREN), written.so_far()
    looking_s = snapshots.cpu_s if snapshots else 0.0
    own_cpu_s += looking_s - cpu_s()
    outputs = [read_output(path, max_bytes) for path, max_bytes in header["outputs"]]
    difference, problem = _collect(base, header["difference_bytes"], mounted) if base else (None, None)
    log = command.log.content()
    facts = {
        "nonce": header["nonce"],
        "exit_code": command.exit_code,
        "timed_out": command.ended_by == "timeout",
        "cancelled": command.ended_by == "cancel",
        "out_of_memory": command.ended_by == "memory",
        "wall_s": command.wall_s,
        "cpu_s": max(0.0, used.ru_utime + used.ru_stime - before_s - looking_s),
        "own_cpu_s": max(0.0, own_cpu_s + cpu_s()),
        "peak_memory_bytes": used.ru_maxrss * 1024,
        "written_bytes": written_bytes,
        "log_dropped_chars": command.log.dropped_chars,
        "log_size": len(log),
        "outputs": [[None if content is None else len(content), wrong] for content, wrong in outputs],
        "difference_size": None if difference is None else len(difference),
        "difference_problem": problem,
    }
    text = as_json(facts).encode()
    contents = [content for content, _ in outputs if content is not None]
    frames.write(b"R", [struct.pack(">I", len(text)), text, log, *contents, difference or b""])


def _await_dismissal(control: Stdin) -> None:
    """The control group outlives the result until the manager has looked at it; then stdin ends."""
    poller = Poller()
    seen: list[bytes] = []
    poller.watch(control.fd, READ, lambda _: seen.append(os.read(control.fd, 1)))
    give_up_at = time.monotonic() + DISMISSAL_S
    while b"" not in seen and time.monotonic() < give_up_at:
        poller.poll(max(0.0, give_up_at - time.monotonic()))


def main(prepared: Prepared | None = None) -> None:
    """The whole life of a sandbox."""
    _signal.signal(
        _signal.SIGINT, _signal.SIG_IGN
    )  # Python's own handler: the only one that would let a signal through
    written = Written()
    step_out_of_reach()
    control, frames = Stdin(os.dup(0)), Frames(os.dup(1))
    with open(os.devnull, "r+b", buffering=0) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    try:
        _run(control, frames, written, prepared)
        _await_dismissal(control)
    except ManagerGone:
        kill_all()
        sys.exit(1)
    except (Exception, Undead, GitFailed) as error:
        frames.write(b"E", [f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:2000]])
        sys.exit(1)
