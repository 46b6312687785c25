"""Asks the kernel for what sandboxes break out with: namespaces, mounts, keys, BPF, io_uring, performance counters."""

import ctypes
import os
import platform

libc = ctypes.CDLL(None, use_errno=True)
column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
calls = {
    "unshare(NEWUSER)": ((272, 97), (0x10000000,)),
    "unshare(NEWNS)": ((272, 97), (0x20000,)),
    "unshare(NEWNET)": ((272, 97), (0x40000000,)),
    "setns": ((308, 268), (0, 0)),
    "mount": ((165, 40), (b"none", b"/tmp", b"tmpfs", 0, None)),
    "umount2": ((166, 39), (b"/proc", 2)),
    "pivot_root": ((155, 41), (b"/", b"/")),
    "chroot": ((161, 51), (b"/tmp",)),
    "fsopen": ((430, 430), (b"tmpfs", 0)),
    "open_tree": ((428, 428), (-100, b"/", 1)),
    "bpf": ((321, 280), (0, None, 0)),
    "perf_event_open": ((298, 241), (None, 0, -1, -1, 0)),
    "userfaultfd": ((323, 282), (0,)),
    "io_uring_setup": ((425, 425), (1, ctypes.create_string_buffer(256))),
    "keyctl": ((250, 219), (0, -3, 1)),
    "add_key": ((248, 217), (b"user", b"k", b"v", 1, -3)),
    "kexec_load": ((246, 104), (0, 0, None, 0)),
    "init_module": ((175, 105), (b"", 0, b"")),
    "swapon": ((167, 224), (b"/tmp/x", 0)),
    "reboot": ((169, 142), (0xFEE1DEAD, 672274793, 0, 0)),
    "sethostname": ((170, 161), (b"x", 1)),
    "settimeofday": ((164, 170), (None, None)),
    "open_by_handle_at": ((304, 265), (-100, None, 0)),
    "setuid(0)": ((105, 146), (0,)),
}
for name, (numbers, arguments) in calls.items():
    if libc.syscall(numbers[column], *arguments) >= 0:
        print("BROKE OUT:", name, flush=True)
flags = 0x10000000 | 17
pid = libc.syscall((56, 220)[column], flags, None, None, None, None)
if pid == 0:
    os._exit(0)
if pid > 0:
    print("BROKE OUT: clone(NEWUSER)", flush=True)
