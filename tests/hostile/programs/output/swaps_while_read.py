"""A crowd that keeps swapping the result: file, symlink, directory, pipe, for ever."""

import os
import time

os.chdir("/sandbox")
for number in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            name = f"tmp{number}"
            for make in (
                lambda: open(name, "w").write("honest"),
                lambda: os.symlink("/etc/passwd", name),
                lambda: os.mkfifo(name),
                lambda: os.symlink("/proc/1/environ", name),
            ):
                try:
                    make()
                    os.rename(name, "result")
                except OSError:
                    pass
time.sleep(0.5)
print("swapping", flush=True)
