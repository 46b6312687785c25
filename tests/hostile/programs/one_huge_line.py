"""Prints one line of 60 MB, then the last word."""

import os

for _ in range(60):
    os.write(1, b"x" * 1_000_000)
os.write(1, b"last word")
