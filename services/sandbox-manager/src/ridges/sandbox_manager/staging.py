"""Lets an unprivileged bwrap read what lies below directories closed to it (an interpreter below /root, say).

A manager that runs as root starts bwrap under an unprivileged host uid. Sources which that uid cannot reach are
mounted below one empty directory of ours, in a mount namespace that only such children enter. The host sees nothing of
it, and nothing is left. One namespace, made once, holds what all starts need: entering it takes a program of
util-linux, where mounting anew takes a fork of the whole manager.
"""

import ctypes
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from ridges.sandbox_manager.errors import SandboxUnavailable

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SLAVE = 0x1000, 0x4000, 0x40000, 0x80000

libc = ctypes.CDLL(None, use_errno=True)


class Entry(msgspec.Struct, frozen=True):
    """How a child becomes the unprivileged one."""

    command: tuple[str, ...] = ()
    """Stands before bwrap's own."""
    in_child: Callable[[], None] | None = None
    """Done between fork and exec, when no command will do."""


class CommonStage:
    """What every start of one adapter needs, mounted once in a namespace that is kept open."""

    def __init__(self, directory: Path, sources: Iterable[Path]) -> None:
        """``directory`` is made when it is needed, and stays empty outside of the namespace."""
        self.directory = directory
        closed = dict.fromkeys(source for source in sources if not _open_to_all(source))
        self.places = {source: directory / str(number) for number, source in enumerate(closed)}
        self._namespace: int | None = None
        self._nsenter = shutil.which("nsenter")

    def entry(self, uid: int) -> Entry | None:
        """Into the namespace, if there are places, and to the uid. None: without util-linux."""
        if self._nsenter is None or "busybox" in os.path.realpath(self._nsenter):
            return None
        command = (self._nsenter, "--setuid", str(uid), "--setgid", str(uid))
        if not self.places:
            return Entry((*command, "--"))
        if self._namespace is None:
            self._namespace = _namespace_with(self.directory, self.places)
        # by our own descriptor: one that is handed over would still be open in the sandbox
        return Entry((*command, f"--mount=/proc/{os.getpid()}/fd/{self._namespace}", "--"))


class Stage:
    """Where the sources of one start are found by the unprivileged child."""

    def __init__(self, common: CommonStage, uid: int | None) -> None:
        self._common, self._uid = common, uid
        self._own: dict[Path, Path] = {}

    def reachable(self, source: Path) -> Path:
        """The path under which the child will see a directory."""
        if self._uid is None or _open_to_all(source):
            return source
        number = len(self._common.places) + len(self._own)
        return self._common.places.get(source) or self._own.setdefault(source, self._common.directory / str(number))

    def entry(self) -> Entry:
        """What makes the child see it all as the uid."""
        uid, common = self._uid, self._common
        if uid is None:
            return Entry()
        if not self._own and (entered := common.entry(uid)):
            return entered
        places = common.places | self._own
        if places:
            common.directory.mkdir(mode=0o755, parents=True, exist_ok=True)

        def in_child() -> None:
            if places:
                _mount_all(common.directory, places, _MS_PRIVATE)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)

        return Entry(in_child=in_child)


def _namespace_with(directory: Path, places: dict[Path, Path]) -> int:
    """A descriptor of it. What is mounted and unmounted outside later is so inside, too.

    Raises:
        SandboxUnavailable: this process may not.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        with subprocess.Popen(
            ["cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: _mount_all(directory, places, _MS_SLAVE),  # noqa: PLW1509  # once, at the first start
        ) as holder:
            return os.open(f"/proc/{holder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except subprocess.SubprocessError as error:
        raise root_may_not() from error


def root_may_not() -> SandboxUnavailable:
    """What to say when a manager that is root lacks root's capabilities."""
    return SandboxUnavailable(
        "root may not mount or change the uid here",
        "run the sandbox-manager as an ordinary user, or give it CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID",
    )


def _mount_all(directory: Path, places: dict[Path, Path], propagation: int) -> None:
    checked(libc.unshare(_CLONE_NEWNS))
    mount(None, "/", None, _MS_REC | propagation)
    mount("stage", str(directory), "tmpfs", 0, "mode=755,size=64k")
    for source, place in places.items():
        place.mkdir()
        mount(str(source), str(place), None, _MS_BIND | _MS_REC)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """The system call, with text. Raises ``OSError``."""
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    checked(libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))


def checked(result: int) -> None:
    """Raises what ``libc`` says of a call that failed, as ``OSError``."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _open_to_all(path: Path) -> bool:
    """Any uid can get there. Symlinks on the way are followed."""
    resolved = path.resolve()
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in (resolved, *resolved.parents)) and all(
        directory.stat().st_mode & stat.S_IXOTH for directory in path.absolute().parents
    )
