"""The difference of the repository from time to time while the command runs, for the case that all else is lost.

The command is there meanwhile, under the same uid, and may stop, kill, trace or deceive every program that works here.
So these programs hold nothing that it could use: the process that is forked from the supervisor (out of the command's
reach as that is) only copies the base, and git runs under the command's own limits and filter. What comes out is as
much the command's word as the repository itself. It may take ``PATIENCE_S``, a share of the time and a bounded size.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import stat
import time

from ridges.sandbox_manager.inside.confinement import filter_calls, limit
from ridges.sandbox_manager.inside.poller import READ
from ridges.sandbox_manager.inside.repository import (
    AS_PATCH,
    GIT_SETTINGS,
    NO_BYTE_CODE,
    GitFailed,
    git_environment,
    remove_tree,
    spawn_program,
    wait_for,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ridges.sandbox_manager.inside.outbox import Outbox
    from ridges.sandbox_manager.inside.poller import Poller
    from ridges.sandbox_manager.inside.repository import Base

FIRST_S = 5.0
PATIENCE_S = 20.0
SHARE = 20
"""A pause is at least so many times as long as the snapshot before it took."""
MOST_BASE_BYTES = 64 * 1024 * 1024
"""Of the base commit: it is copied for each snapshot, into the sandbox's temporary directory."""
MOST_CHANGED_BYTES = 16 * 1024 * 1024
MOST_NAMES_BYTES = 1024 * 1024
MOST_NESTED = 50
LIMITS = {"CPU": 10, "AS": 1 << 30, "FSIZE": MOST_BASE_BYTES}
NICE = 10
UNCHANGED, NOT_MADE = 3, 4
_SIGNATURE = 8
_CHUNK = 1 << 18
_SHELL = '{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null; exec git "$@"'
"""When memory ends git goes first; it has to say so itself."""
_FRUGAL = ("-c", "core.preloadIndex=false", "-c", "index.threads=1")


class Snapshots:
    """Of one command; each is told with a frame ``D`` when it differs from the one before."""

    def __init__(self, base: Base, header: dict[str, Any], poller: Poller, outbox: Outbox) -> None:
        self._base, self._header, self._poller, self._outbox = base, header, poller, outbox
        self.cpu_s = 0.0
        """What they took so far."""
        self._every_s = header["difference_every_s"]
        self._next_at = time.monotonic() + min(FIRST_S, self._every_s)
        self._known = hash(())
        self._told = hash(b"")
        self._pid = self._pipe = 0
        self._began = self._give_up_at = 0.0
        self._git_dirs: list[str] = []
        """Where this one works, and those before it that were ended before they had removed theirs."""
        self._content = bytearray()
        self._ready: bytes | None = None
        self._directory = os.environ.get("TMPDIR", "/tmp")  # noqa: S108  # the sandbox's own

    @property
    def due_in_s(self) -> float | None:
        """When ``advance`` has something to do; None = when the manager has read."""
        if self._ready is not None:
            return 0.0 if self._outbox.idle else None
        at = self._give_up_at if self._pid else self._next_at
        return max(0.0, at - time.monotonic())

    def advance(self) -> None:
        """Begin, give up or tell one, if it is time."""
        if self.due_in_s != 0.0:
            return
        if self._ready is not None:
            self._outbox.put(b"D", self._ready)
            self._ready = None
        elif self._pid:
            self._end()
            self._give_up_at += PATIENCE_S  # it is reaped long before
        else:
            self._begin()

    def ended(self, pid: int, status: int, cpu_s: float) -> None:
        """A child was reaped, which with its own children used so much processor time."""
        if pid != self._pid:
            return
        self.cpu_s += cpu_s
        while self._read():
            pass
        self.stop()
        if os.WIFEXITED(status):
            self._git_dirs.clear()
        took = time.monotonic() - self._began
        self._next_at = time.monotonic() + max(self._every_s, SHARE * took)
        content = bytes(self._content)
        if status == 0 and _SIGNATURE <= len(content) <= self._most:
            self._known = int.from_bytes(content[:_SIGNATURE], "little", signed=True)
            if hash(content[_SIGNATURE:]) != self._told:  # files that were only touched are listed, too
                self._ready = content[_SIGNATURE:]
                self._told = hash(self._ready)

    def stop(self) -> None:
        """Nothing more comes; what still works is ended."""
        if self._pid:
            self._end()
            self._poller.forget(self._pipe)
            os.close(self._pipe)
            self._pid = 0

    @property
    def _most(self) -> int:
        return int(self._header["difference_so_far_bytes"]) + _SIGNATURE

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._give_up_at, self._next_at = self._began + PATIENCE_S, self._began + self._every_s
        self._content.clear()
        self._git_dirs.append(os.path.join(self._directory, ".ridges-" + os.urandom(8).hex()))
        pipe, write_end = os.pipe()
        os.set_blocking(pipe, False)
        try:
            pid = os.fork()
        except OSError:  # the command has every process that there may be
            os.close(pipe)
            os.close(write_end)
            return
        if pid == 0:
            code = NOT_MADE
            try:
                code = self._make(write_end)
            except BaseException:  # noqa: S110  # nobody is there who could be told
                pass
            os._exit(code)
        os.close(write_end)
        self._pid, self._pipe = pid, pipe
        self._poller.watch(pipe, READ, lambda _: self._read())

    def _read(self) -> bool:
        try:
            chunk = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return False
        self._content += chunk
        if len(self._content) > self._most:
            self._end()
            chunk = b""
        if not chunk:
            self._poller.forget(self._pipe)
        return bool(chunk)

    def _end(self) -> None:
        for kill, victim in ((os.killpg, self._pid), (os.kill, self._pid)):
            try:
                kill(victim, 9)
            except OSError:
                pass

    # -- in the child --------------------------------------------------------------------------------------------------

    def _make(self, out: int) -> int:
        os.setsid()
        _signal.set_wakeup_fd(-1)
        nothing = os.open(os.devnull, os.O_RDWR)
        _close_all_but(out, nothing, *self._base.kept.values())
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        limit(self._header["rlimits"])
        limit(LIMITS)
        os.nice(NICE)
        if self._header["seccomp"]:
            filter_calls(self._header["seccomp"])
        *leftovers, git_dir = self._git_dirs
        for leftover in leftovers:
            remove_tree(leftover)
        size = sum(os.fstat(kept).st_size for kept in self._base.kept.values())
        room = os.statvfs(os.path.dirname(git_dir))
        if size > MOST_BASE_BYTES or 2 * size + MOST_NAMES_BYTES > room.f_bavail * room.f_frsize:
            return NOT_MADE
        try:
            return self._write(git_dir, out)
        finally:
            remove_tree(git_dir)

    def _write(self, git_dir: str, out: int) -> int:
        self._base.put_back(git_dir, objects=False)
        listing = ["ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", ".", *NO_BYTE_CODE]
        names = self._listed(git_dir, listing)
        signature = _signature(self._base.work_tree, names)
        if signature == self._known:
            return UNCHANGED
        nested = [name[:-1] for name in names if name.endswith(b"/")]
        if len(nested) > MOST_NESTED:
            return NOT_MADE
        self._base.put_back_objects(git_dir)
        within = [".", *NO_BYTE_CODE, *(":(exclude,literal)" + os.fsdecode(name) for name in nested)]
        os.write(out, signature.to_bytes(_SIGNATURE, "little", signed=True))
        announce = ["add", "--intent-to-add", "--ignore-removal", "--ignore-errors", "--", *within]
        self._git(git_dir, announce, tolerate=(1,))
        self._git(git_dir, ["diff", *AS_PATCH, "--ignore-submodules=all", "--", *within], out)
        return 0

    def _listed(self, git_dir: str, arguments: list[str]) -> list[bytes]:
        read_end, write_end = os.pipe()
        pid = self._spawn(git_dir, arguments, write_end)
        os.close(write_end)
        content = bytearray()
        while chunk := os.read(read_end, _CHUNK):
            content += chunk
            if len(content) > MOST_NAMES_BYTES:
                raise GitFailed("too many names")
        wait_for(pid, arguments)
        return bytes(content).split(b"\0")[:-1]

    def _git(self, git_dir: str, arguments: list[str], out: int | None = None, tolerate: tuple[int, ...] = ()) -> None:
        wait_for(self._spawn(git_dir, arguments, out), arguments, tolerate)

    def _spawn(self, git_dir: str, arguments: list[str], out: int | None) -> int:
        argv = ["sh", "-c", _SHELL, "git", *GIT_SETTINGS, *_FRUGAL, *arguments]
        return spawn_program("sh", argv, git_environment(git_dir, self._base.work_tree), stdout=out)


def _signature(work_tree: str, names: list[bytes]) -> int:
    """Of the files that changed, by their facts. The same in each child: they share the supervisor's hash seed.

    Raises:
        GitFailed: they are too large.
    """
    root, size = os.fsencode(work_tree), 0
    facts: list[tuple[object, ...]] = []
    for name in names:
        try:
            found = os.lstat(os.path.join(root, name))
        except OSError:
            facts.append((name,))
            continue
        size += found.st_size if stat.S_ISREG(found.st_mode) else 0
        facts.append((name, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    if size > MOST_CHANGED_BYTES:
        raise GitFailed("too much changed")
    return hash(tuple(facts))


def _close_all_but(*kept: int) -> None:
    """The supervisor's own descriptors have no business here."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        opened = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        opened = list(range(min(most, 65536)))
    for fd in opened:
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass
