"""The filter, run by a small interpreter of classic BPF: each claim for both machines."""

import errno
import struct

import pytest

from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.seccomp import NAMESPACES, filter_program

ALLOW = 0x7FFF0000
KILL = 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def refused(error: int) -> int:
    return 0x50000 | error


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None, counted: bool = True) -> int:
    program = filter_program(counted_memory=counted, machine=machine)
    call = struct.pack("<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *(*arguments, *[0] * 6)[:6])
    accumulator, at = 0, 0
    while True:
        code, true, false, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x06:
            return k
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", call, k)
        else:
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x45: bool(accumulator & k)}[code]
            at += true if holds else false


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64", "expected"),
    [
        ("read", 0, 63, ALLOW),
        ("execve", 59, 221, ALLOW),
        ("futex", 202, 98, ALLOW),
        ("openat", 257, 56, ALLOW),
        ("mount", 165, 40, refused(errno.EPERM)),
        ("setns", 308, 268, refused(errno.EPERM)),
        ("bpf", 321, 280, refused(errno.EPERM)),
        ("keyctl", 250, 219, refused(errno.EPERM)),
        ("io_uring_setup", 425, 425, refused(errno.ENOSYS)),
        ("clone3", 435, 435, refused(errno.ENOSYS)),
        ("not invented yet", 480, 480, refused(errno.ENOSYS)),
        ("x32 read", 0x40000000, 0x40000000, refused(errno.ENOSYS)),
    ],
)
def test_calls(name, x86_64, aarch64, expected):
    assert verdict("x86_64", x86_64) == expected
    assert verdict("aarch64", aarch64) == expected


@pytest.mark.parametrize(("machine", "clone", "unshare"), [("x86_64", 56, 272), ("aarch64", 220, 97)])
def test_threads_and_forks_but_no_namespaces(machine, clone, unshare):
    assert verdict(machine, clone, 17) == ALLOW
    assert verdict(machine, clone, 0x3D0F00) == ALLOW
    for bit in range(32):
        if NAMESPACES & (1 << bit):
            assert verdict(machine, clone, 17 | 1 << bit) == refused(errno.EPERM)
            assert verdict(machine, unshare, 1 << bit) == refused(errno.EPERM)


@pytest.mark.parametrize(("machine", "socket", "ioctl"), [("x86_64", 41, 16), ("aarch64", 198, 29)])
def test_sockets_and_terminals(machine, socket, ioctl):
    for family in (1, 2, 10):
        assert verdict(machine, socket, family, 1, 0) == ALLOW
    assert verdict(machine, socket, 16, 3, 0) == ALLOW
    for family, protocol in ((16, 15), (17, 0), (38, 0), (40, 0), (44, 0)):
        assert verdict(machine, socket, family, 3, protocol) == refused(errno.EAFNOSUPPORT)
    assert verdict(machine, ioctl, 0, 0x5413) == ALLOW
    assert verdict(machine, ioctl, 0, 0x5412) == refused(errno.EPERM)


def test_memory_that_nobody_counts_is_refused_without_control_groups():
    for machine, memfd, shmget in (("x86_64", 319, 29), ("aarch64", 279, 194)):
        for number in (memfd, shmget):
            assert verdict(machine, number) == ALLOW
            assert verdict(machine, number, counted=False) == refused(errno.ENOSYS)


def test_another_architecture_is_killed_and_an_unknown_machine_refused():
    assert verdict("x86_64", 0, architecture=0x40000003) == KILL
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        filter_program(counted_memory=True, machine="riscv64")
