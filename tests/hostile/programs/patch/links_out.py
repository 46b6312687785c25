"""New files that are links to the host's secrets, to devices, to the first process, to endless data."""

import os

os.chdir("/sandbox/repo")
for name, target in (
    *(("shadow", "/etc/shadow"), ("passwd", "/etc/passwd"), ("environ", "/proc/1/environ"), ("zero", "/dev/zero")),
    *(("random", "/dev/urandom"), ("root", "/"), ("up", "../../../../etc"), ("self", "self"), ("mem", "/proc/self/mem")),
):
    os.symlink(target, name)
os.makedirs("sub", exist_ok=True)
os.rename("sub", "sub.old")
os.symlink("/etc", "sub")
