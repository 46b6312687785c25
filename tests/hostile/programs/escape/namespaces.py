"""Asks for namespaces by every call and joins those of others."""

import ctypes
import os
import shutil
import subprocess

libc = ctypes.CDLL(None, use_errno=True)
KINDS = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
for name, flag in KINDS.items():
    if libc.unshare(flag) == 0 or libc.unshare(flag | 0x10000000) == 0:
        print("BROKE OUT: unshare", name, flush=True)
    arguments = (ctypes.c_uint64 * 11)(flag | 0x10000000, 0, 0, 0, 17)
    pid = libc.syscall(435, arguments, 88)  # clone3
    if pid == 0:
        os._exit(0)
    if pid > 0:
        print("BROKE OUT: clone3", name, flush=True)
    for owner in ("1", "self", str(os.getppid())):
        try:
            descriptor = os.open(f"/proc/{owner}/ns/{name}", os.O_RDONLY)
        except OSError:
            continue
        if libc.setns(descriptor, 0) == 0:
            print("BROKE OUT: setns", owner, name, flush=True)
for pid in (1, os.getppid()):
    descriptor = libc.syscall(434, pid, 0)
    if descriptor >= 0 and libc.setns(descriptor, 0x20000 | 0x40000000) == 0:
        print("BROKE OUT: setns by pidfd", flush=True)
for command in (["unshare", "-Ur", "true"], ["unshare", "-m", "true"], ["nsenter", "-t", "1", "-a", "true"], ["bwrap", "--ro-bind", "/", "/", "true"]):
    if shutil.which(command[0]) and subprocess.run(command, capture_output=True).returncode == 0:
        print("BROKE OUT:", *command, flush=True)
