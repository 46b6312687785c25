"""A difference far larger than any patch: noise that does not compress, in files and in one line."""

import os

os.chdir("/sandbox/repo")
try:
    for number in range(8):
        with open(f"noise{number}", "wb") as file:
            file.write(os.urandom(4 << 20))
    with open("line", "w") as file:
        file.write("x" * (8 << 20))
except OSError:
    pass
print("grown", flush=True)
