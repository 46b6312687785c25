"""The system calls that a bubblewrap sandbox may not make, as a classic BPF program. Pure.

A denylist over what user namespaces, missing capabilities and the mount tree already forbid: kernel surface that no
agent needs. Calls newer than the ones known here do not exist (ENOSYS), so that programs take their fallback.
Source: seccomp(2), Docker's default profile, ``linux/seccomp.h``.
"""

import errno
import platform
import struct
from collections.abc import Iterable
from functools import cache

from ridges.sandbox_manager.errors import SandboxUnavailable

_LD, _JEQ, _JGT, _JSET, _RET = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000
_NR, _ARCH, _ARGS = 0, 4, 16
"""Offsets in ``struct seccomp_data``."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEWEST_KNOWN = 462
"""mseal(2), Linux 6.10. Numbers above 423 are the same everywhere; the x32 calls of x86_64 are above it too."""

NAMESPACES = 0x7E020000 | 0x80
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} and CLONE_NEWTIME."""
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_DENIED: dict[str, tuple[int, int | None]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "memfd_secret": (447, 447),
}
"""Number on x86_64, on aarch64: EPERM."""
_ABSENT = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
"""ENOSYS: programs know what to do without them. clone3 hides its flags from filters."""
_UNCOUNTED = {"memfd_create": (319, 279), "shmget": (29, 194)}
"""Memory that belongs to no process and no file system: only a control group counts it."""
_CLONE, _UNSHARE, _SOCKET, _IOCTL = (56, 220), (272, 97), (41, 198), (16, 29)


@cache
def filter_program(*, counted_memory: bool, machine: str | None = None) -> bytes:
    """The program for ``bwrap --seccomp``.

    Args:
        counted_memory: a control group counts memory; without one, memory outside of processes and files is refused.
        machine: as ``uname -m`` says it; default: this one.

    Raises:
        SandboxUnavailable: no table for this machine.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise SandboxUnavailable(
            f"there is no system call table for {machine}", f"use Docker, or a machine of {', '.join(_ARCHITECTURES)}"
        )
    column = list(_ARCHITECTURES).index(machine)
    absent = [*_ABSENT.values(), *(() if counted_memory else _UNCOUNTED.values())]
    program = [
        _op(_LD, _ARCH),
        _op(_JEQ, _ARCHITECTURES[machine], 1, 0),
        _op(_RET, _KILL),
        _op(_LD, _NR),
        _op(_JGT, _NEWEST_KNOWN, 0, 1),
        _op(_RET, _ERRNO | errno.ENOSYS),
        *_refuse((row[column] for row in _DENIED.values()), errno.EPERM),
        *_refuse((row[column] for row in absent), errno.ENOSYS),
        *_refuse_flags(_CLONE[column], 0, NAMESPACES),
        *_refuse_flags(_UNSHARE[column], 0, NAMESPACES),
        *_refuse_values(_IOCTL[column], 1, (_TIOCSTI, _TIOCLINUX)),
        *_sockets(_SOCKET[column]),
        _op(_RET, _ALLOW),
    ]
    return b"".join(program)


def _op(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
    """``struct sock_filter``; both architectures are little-endian."""
    return struct.pack("<HBBI", code, true, false, k)


def _refuse(numbers: Iterable[int | None], error: int) -> list[bytes]:
    return [
        op for number in numbers if number is not None for op in (_op(_JEQ, number, 0, 1), _op(_RET, _ERRNO | error))
    ]


def _for_call(number: int, body: list[bytes]) -> list[bytes]:
    """A body that ends in a return, for one call."""
    return [_op(_JEQ, number, 0, len(body)), *body]


def _refuse_flags(number: int, argument: int, flags: int) -> list[bytes]:
    body = [
        _op(_LD, _ARGS + 8 * argument),
        _op(_JSET, flags, 0, 1),
        _op(_RET, _ERRNO | errno.EPERM),
        _op(_RET, _ALLOW),
    ]
    return _for_call(number, body)


def _refuse_values(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    body = [_op(_LD, _ARGS + 8 * argument)]
    for value in values:
        body += [_op(_JEQ, value, 0, 1), _op(_RET, _ERRNO | errno.EPERM)]
    return _for_call(number, [*body, _op(_RET, _ALLOW)])


def _sockets(number: int) -> list[bytes]:
    """Unix, IPv4, IPv6, and netlink's routing protocol (libraries list interfaces with it); not packet, vsock, alg."""
    body = [_op(_LD, _ARGS)]
    for family in (_AF_UNIX, _AF_INET, _AF_INET6):
        body += [_op(_JEQ, family, 0, 1), _op(_RET, _ALLOW)]
    body += [
        _op(_JEQ, _AF_NETLINK, 0, 3),
        _op(_LD, _ARGS + 16),
        _op(_JEQ, 0, 0, 1),
        _op(_RET, _ALLOW),
        _op(_RET, _ERRNO | errno.EAFNOSUPPORT),
    ]
    return _for_call(number, body)
