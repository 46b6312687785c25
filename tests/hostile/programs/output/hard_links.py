"""Hard links to what it may not read, and to its own; the same inode under many names."""

import os

os.chdir("/sandbox")
for target in ("/etc/shadow", "/etc/passwd", "/proc/self/environ", "/usr/bin/env"):
    try:
        os.link(target, "linked", follow_symlinks=True)
        print("BROKE OUT: linked", target)
    except OSError:
        pass
with open("one", "w") as file:
    file.write("x" * 1000)
for number in range(1000):
    os.link("one", f"one{number}")
print("linked", flush=True)
