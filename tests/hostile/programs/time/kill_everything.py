"""Kills all it may: every pid, every group, the first process, in the end itself."""

import os
import signal

print("begun", flush=True)
for pid in [1, *range(2, 1000)]:
    if pid not in (os.getpid(), os.getppid()):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except OSError:
                pass
for pid in (-1, 1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
os.kill(os.getpid(), signal.SIGKILL)
