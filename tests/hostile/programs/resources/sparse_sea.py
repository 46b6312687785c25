"""Seas of zeros: files that look larger than any disk, mapped and read."""

import mmap
import os

for power in (24, 30, 36, 42, 50):
    try:
        with open("/sandbox/sea", "wb") as file:
            file.truncate(1 << power)
        print("truncated to 2 **", power, flush=True)
        with open("/sandbox/sea", "r+b") as file, mmap.mmap(file.fileno(), 0) as sea:
            for at in range(0, min(len(sea), 1 << 30), 1 << 20):
                sea[at] = 1
    except (OSError, ValueError) as error:
        print(error, flush=True)
os.truncate("/sandbox/sea", 0)
