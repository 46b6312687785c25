"""Prints one line of 200 MB, then the last word."""

import os

for _ in range(200):
    os.write(1, b"x" * 1_000_000)
os.write(1, b"last word")
