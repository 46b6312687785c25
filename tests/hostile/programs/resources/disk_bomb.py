"""Writes into every directory that takes files, until nothing takes any more; then a great many empty files."""

import os

piece = b"x" * (1 << 20)
total = 0
for top, directories, _ in os.walk("/"):
    directories[:] = [name for name in directories if os.path.join(top, name) not in ("/proc", "/sys")]
    try:
        with open(os.path.join(top, "fill"), "wb", buffering=0) as file:
            while total < 2048:
                total += file.write(piece) >> 20
    except OSError:
        continue
print("wrote", total, "MiB", flush=True)
if total > 512:
    print("BROKE OUT: more disk than allowed")
for number in range(50_000):
    try:
        open(f"/sandbox/{number}", "w").close()
    except OSError:
        break
