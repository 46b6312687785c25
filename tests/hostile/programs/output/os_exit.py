"""Ends without a word to the runner, in the middle of a line."""

import os

os.write(1, b"half a li")
os._exit(3)
