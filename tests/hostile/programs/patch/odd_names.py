"""Changes few files, under names that are no text or orders to a terminal, and says the same in its log and its files."""

import os

ORDERS = b"\x1b[2J\x1b]0;owned\x07\x9b31m\xff\xfe \r\xe2\x80\xae"
os.chdir("/sandbox/repo")
for name in (b"new\nline", b"\xff\xfe", b'quo"te', b"\x1b[2J\x1b]0;owned\x07", b"-rf", b":(exclude)x", b"tab\tback\\", b"\xe2\x80\xae"):
    with open(name, "wb") as file:
        file.write(name + ORDERS + b"\n")
os.write(1, ORDERS + b"\n")
