"""Several processes eat memory, private and shared, as fast as they can."""

import mmap
import os

for _ in range(4):
    if os.fork() == 0:
        break
hoard = []
while True:
    hoard.append(bytearray(os.urandom(1 << 20) * 16))
    shared = mmap.mmap(-1, 16 << 20)
    shared.write(b"x" * (16 << 20))
    hoard.append(shared)
