"""Prints 200 MB on both streams from several processes at once."""

import os

for _ in range(3):
    if os.fork() == 0:
        break
for _ in range(1000):
    os.write(1, b"o" * 32768)
    os.write(2, b"e\n" * 16384)
