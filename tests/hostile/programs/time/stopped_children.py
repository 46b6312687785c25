"""Children that stop themselves, are traced by one another, or wait in the kernel; the parent ends."""

import ctypes
import os
import signal
import time

for kind in range(9):
    if os.fork() == 0:
        if kind % 3 == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif kind % 3 == 1:
            ctypes.CDLL(None).ptrace(0, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGTRAP)
        else:
            read_end, _write_end = os.pipe()
            os.read(read_end, 1)
        os._exit(0)
time.sleep(0.2)
print("over", flush=True)
