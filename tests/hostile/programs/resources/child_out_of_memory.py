"""A child is killed for its memory; the parent does not mind and ends well."""

import os

if os.fork() == 0:
    hoard = []
    try:
        while True:
            hoard.append(bytearray(b"x" * (16 << 20)))
    except MemoryError:
        os._exit(1)
os.wait()
print("parent lives", flush=True)
