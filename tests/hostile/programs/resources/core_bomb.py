"""Dies with a large memory, many times: cores would fill the disk of the host."""

import os
import resource

try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    print("BROKE OUT: cores may be written")
except (OSError, ValueError):
    pass
for _ in range(5):
    if os.fork() == 0:
        hoard = bytearray(64 << 20)
        os.abort()
    print("core" if os.WCOREDUMP(os.wait()[1]) else "none", flush=True)
if any("core" in name for name in os.listdir("/sandbox")):
    print("BROKE OUT: a core was written")
