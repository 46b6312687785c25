"""Looks for secrets of the host everywhere it can read: environments, files, memory of others, image layers."""

import os
import re

wanted = re.compile(b"CANARY" + b"-[0-9a-f]{16}|[0-9a-f-]{36}" + rb"\.[0-9a-f]{64}")
read = 0


def look(path, limit=1 << 18):
    global read
    try:
        with open(path, "rb") as file:
            content = file.read(limit)
    except OSError:
        return
    read += 1
    if found := wanted.search(content):
        print("BROKE OUT:", path, found[0][:12], flush=True)


for pid in os.listdir("/proc"):
    if pid.isdigit():
        for name in ("environ", "cmdline", "mountinfo", "maps", "stack", "io"):
            look(f"/proc/{pid}/{name}")
look("/proc/cmdline")
look("/proc/self/mountinfo")
for top, directories, files in os.walk("/"):
    directories[:] = [
        name for name in directories if os.path.join(top, name) not in ("/proc", "/sys", "/usr/lib", "/usr/share", "/usr/bin", "/lib")
    ]
    if "site-packages" in top or "lib/python3" in top:
        continue
    for name in files:
        path = os.path.join(top, name)
        if os.path.isfile(path) and not os.path.islink(path):
            look(path)
for name, value in os.environ.items():
    if wanted.search(value.encode()) or re.search("TOKEN|SECRET|PASSWORD|NATS|AWS_|BLOBS", name):
        print("BROKE OUT: variable", name, flush=True)
print("read", read, "files", flush=True)
