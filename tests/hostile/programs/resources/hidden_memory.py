"""Hoards memory that belongs to no process: memfds, shared memory files, files without a name, pipe buffers."""

import os
import tempfile

piece = b"x" * (1 << 20)
hoard = []
total = 0
while total < 4096:
    try:
        fd = os.memfd_create("hoard")
        for _ in range(16):
            total += os.write(fd, piece) >> 20
        hoard.append(fd)
    except OSError:
        break
for directory in ("/dev/shm", "/tmp", "/sandbox", os.path.expanduser("~")):
    while total < 4096:
        try:
            file = tempfile.TemporaryFile(dir=directory, buffering=0)
            hoard.append(file)
            for _ in range(16):
                total += file.write(piece) >> 20
        except OSError:
            break
print("hoarded", total, "MiB", flush=True)
if total > 600:
    print("BROKE OUT: more memory than allowed")
