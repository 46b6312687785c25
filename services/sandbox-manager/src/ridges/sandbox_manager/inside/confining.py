"""A forked process makes itself the first one of a sandbox: what bwrap does, by the same steps (``mount_tree``).

Two processes: a keeper, which waits outside and dies with the fork server, and its child, process 1 of new namespaces,
which dies with the keeper. Needs Linux 5.12: trees of mounts are opened, made read-only and only then put in place, so
that no moment and no path on the way matters.
"""

from __future__ import annotations

import _socket
import ctypes
import fcntl
import os
import select
import stat
import struct

from ridges.sandbox_manager.inside.confinement import filter_calls
from ridges.sandbox_manager.inside.processes import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, SIGKILL, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Step = Sequence[Any]

UID = 1000
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    *(0x20000, 0x2000000, 0x4000000, 0x8000000),
    *(0x10000000, 0x20000000, 0x40000000),
)
OPEN_TREE, MOVE_MOUNT, CLOSE_RANGE, MOUNT_SETATTR = 428, 429, 436, 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
TREE_CLONE, TREE_CLOEXEC, MOVE_FROM_EMPTY_PATH = 1, os.O_CLOEXEC, 4
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
"""The same bits for mount(2) and mount_setattr(2)."""
MS_PRIVATE, MNT_DETACH = 1 << 18, 2
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = (("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"))
MORE_DEVICE_LINKS = (("fd", "/proc/self/fd"), ("core", "/proc/kcore"), ("ptmx", "pts/ptmx"))
BASE = "/tmp"  # noqa: S108  # any directory that is everywhere: the new root is made upon it, unseen by others
ROOT_BYTES = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class NotConfined(Exception):
    """A step failed; nothing of the sandbox may start."""


def keep(uid: int | None, steps: Sequence[Step], told: int, server: int) -> None:
    """Returns in process 1 of a sandbox, whose parent, the keeper, goes on waiting for it.

    Args:
        uid: the host's uid to have; None = its own.
        steps: the mount tree.
        told: a pipe for what bwrap tells in ``--info-fd``: the host's pid of process 1.
        server: pid of the fork server.
    """
    os.setsid()
    trees = open_trees(steps)  # with the server's rights: a sandbox's uid may not reach them all
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_DUMPABLE, 1)  # else its maps are not its own to write
    die_with(server)
    enter_user_namespace(0, NEWPID)
    there, keeper_lives = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(keeper_lives)
        die_with_keeper(there)
        confine(steps, trees)
        return
    os.write(told, b'{"child-pid": %d}' % first)
    os.dup2(keeper_lives, 0)
    close_from(1)
    os._exit(os.waitpid(first, 0)[1] & 0xFF)


def die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends; it forgets that when the uid changes."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_with_keeper(there: int) -> None:
    """The parent is in another pid namespace and has no number here: a pipe tells whether it had ended before."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    poll = select.poll()
    poll.register(there, 0)
    if poll.poll(0):
        os._exit(1)


def confine(steps: Sequence[Step], trees: dict[str, int]) -> None:
    """Everything that makes process 1 of the new pid namespace a sandbox, except the filter of system calls."""
    os.setsid()
    os.umask(0o022)
    checked("unshare", _libc.unshare(NEWNS | NEWNET | NEWIPC | NEWUTS | NEWCGROUP))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    mount(BASE, "tmpfs", NOSUID | NODEV, f"mode=0755,size={ROOT_BYTES}")
    namespaces = -1
    for step in steps:
        take(step, trees)
        if step[0] == "proc":
            namespaces = os.open(BASE + "/proc/sys/user/max_user_namespaces", os.O_WRONLY)
    loopback_up()
    checked("sethostname", _libc.sethostname(b"sandbox", 7))
    pivot_into_base()
    os.write(namespaces, b"1")  # the next one is the last one
    enter_user_namespace(UID)
    drop_capabilities()


def seal(program: bytes) -> None:
    """Nothing but the standard descriptors is open, and the filter of system calls is on."""
    close_from(3)
    filter_calls(program)


def open_trees(steps: Sequence[Step]) -> dict[str, int]:
    """Target -> descriptor of a tree of mounts that is nowhere yet, as the sandbox may use it."""
    trees = {f"/dev/{name}": open_tree(f"/dev/{name}", NOSUID | NOEXEC) for name in DEVICES}
    for step in steps:
        if step[0] == "bind" and not step[1].startswith("/proc/"):
            try:
                trees[step[2]] = open_tree(step[1], RDONLY | NOSUID | NODEV)
            except FileNotFoundError:
                if step[3]:
                    raise
    return trees


def open_tree(path: str, attributes: int) -> int:
    """A copy of what is mounted there and below, with these attributes."""
    flags = TREE_CLONE | TREE_CLOEXEC | AT_RECURSIVE
    tree = syscall(f"open_tree {path}", OPEN_TREE, AT_FDCWD, path.encode(), flags)
    set_attributes(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attributes)
    return tree


def set_attributes(directory: int, path: str, flags: int, attributes: int) -> None:
    wanted = struct.pack("=QQQQ", attributes, 0, MS_PRIVATE, 0)
    syscall(f"mount_setattr {path}", MOUNT_SETATTR, directory, path.encode(), flags, wanted, len(wanted))


def take(step: Step, trees: dict[str, int]) -> None:
    """One step towards the tree."""
    kind = step[0]
    if kind == "bind":
        take_bind(step[1], step[2], trees)
    elif kind == "link":
        os.symlink(step[1], below_base(step[2]))
    elif kind == "dir":
        make_directory(below_base(step[1]))
    elif kind == "tmpfs":
        make_directory(below_base(step[1]))
        mount(BASE + step[1], "tmpfs", NOSUID | NODEV, f"mode={step[2]:04o},size={step[3]}")
    elif kind == "proc":
        make_directory(below_base("/proc"))
        mount(BASE + "/proc", "proc", NOSUID | NODEV | NOEXEC, None)
    elif kind == "dev":
        take_devices(trees)
    elif kind == "file":
        make_file(below_base(step[1]), step[2])
    elif kind == "seal":
        set_attributes(AT_FDCWD, BASE + step[1], 0, RDONLY)
    else:
        raise NotConfined(f"unknown step {kind!r}")


def take_bind(source: str, target: str, trees: dict[str, int]) -> None:
    if source.startswith("/proc/"):  # of the sandbox's own
        trees[target] = open_tree(BASE + source, RDONLY | NOSUID | NODEV | NOEXEC)
    if target in trees:
        put(trees[target], below_base(target))


def put(tree: int, place: str) -> None:
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        make_directory(place)
    else:
        make_file(place, b"")
    syscall(f"move_mount {place}", MOVE_MOUNT, tree, b"", AT_FDCWD, place.encode(), MOVE_FROM_EMPTY_PATH)


def take_devices(trees: dict[str, int]) -> None:
    make_directory(below_base("/dev"))
    mount(BASE + "/dev", "tmpfs", NOSUID | NODEV, f"mode=0755,size={ROOT_BYTES}")
    for name in DEVICES:
        put(trees[f"/dev/{name}"], f"{BASE}/dev/{name}")
    for name, target in (*DEVICE_LINKS, *MORE_DEVICE_LINKS):
        os.symlink(target, f"{BASE}/dev/{name}")
    make_directory(BASE + "/dev/pts")
    mount(BASE + "/dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=620")


def below_base(path: str) -> str:
    """Where a path of the sandbox is now; its parents are there afterwards."""
    os.makedirs(os.path.dirname(BASE + path), 0o755, exist_ok=True)
    return BASE + path


def make_directory(path: str) -> None:
    os.makedirs(path, 0o755, exist_ok=True)


def make_file(path: str, content: bytes) -> None:
    if content or not os.path.lexists(path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_TRUNC, 0o644)
        os.write(fd, content)
        os.close(fd)


def pivot_into_base() -> None:
    """What is mounted there is the root from now on; nothing of the old one can be reached."""
    os.chdir(BASE)
    syscall("pivot_root", PIVOT_ROOT[os.uname().machine], b".", b".")
    unmount(".")
    os.chdir("/")


def loopback_up() -> None:
    """127.0.0.1 and ::1 come with it."""
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(any_socket.fileno(), SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    any_socket.close()


def enter_user_namespace(inside: int, others: int = 0) -> None:
    """A new one, where this process's uid and gid are ``inside`` and no others exist; and other new namespaces."""
    uid, gid = os.geteuid(), os.getegid()
    checked("unshare", _libc.unshare(NEWUSER | others))
    write("/proc/self/setgroups", b"deny")
    write("/proc/self/uid_map", b"%d %d 1" % (inside, uid))
    write("/proc/self/gid_map", b"%d %d 1" % (inside, gid))


def write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def drop_capabilities() -> None:
    """None in any set, and none to be had: not even by a program with file capabilities."""
    _libc.prctl(PR_CAP_AMBIENT, CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break  # the kernel knows no more
    checked("capset", _libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)))


def close_from(fd: int) -> None:
    syscall("close_range", CLOSE_RANGE, fd, 0xFFFFFFFF, 0)


def mount(path: str, kind: str, flags: int, options: str | None) -> None:
    text = None if options is None else options.encode()
    checked(f"mount {path}", _libc.mount(kind.encode(), path.encode(), kind.encode(), ctypes.c_ulong(flags), text))


def unmount(path: str) -> None:
    checked(f"umount {path}", _libc.umount2(path.encode(), MNT_DETACH))


def syscall(what: str, *arguments: int | bytes) -> int:
    return checked(what, _libc.syscall(*(_as_long(each) for each in arguments)))


def _as_long(argument: int | bytes) -> Any:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
