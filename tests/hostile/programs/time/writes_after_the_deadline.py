"""Daemons that write the time into a file for ever: nothing may be written after the sandbox's end."""

import os
import time

began = time.monotonic()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        break
while True:
    with open(f"/sandbox/late{os.getpid()}", "w") as file:
        file.write(f"{time.monotonic() - began:.3f}")
    os.replace(f"/sandbox/late{os.getpid()}", "/sandbox/late")
    time.sleep(0.001)
