"""Leaves everything but files where results are read: links to secrets, pipes, devices, seas of zeros."""

import os
import socket

os.chdir("/sandbox")
os.symlink("/etc/passwd", "symlink")
os.symlink("/proc/self/environ", "proclink")
os.symlink("/proc/1/root", "rootlink")
os.mkfifo("fifo")
os.mkdir("directory")
with open("sparse", "w") as file:
    file.truncate(1 << 24)
    os.truncate("sparse", 20 << 20)
with open("large", "wb") as file:
    file.write(b"x" * (1 << 20))
os.symlink("/dev/zero", "zero")
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink("loop", "loop")
