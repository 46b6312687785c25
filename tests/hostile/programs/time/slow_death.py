"""A process that takes long to die: much memory, many descriptors and maps, a vfork that waits."""

import mmap
import os
import time

maps = [mmap.mmap(-1, 4096) for _ in range(20_000)]
hoard = bytearray(os.urandom(1 << 20) * 150)
files = []
try:
    while len(files) < 3000:
        files.append(os.open("/proc/self/maps", os.O_RDONLY))
except OSError:
    pass
print("ready", flush=True)
time.sleep(60)
