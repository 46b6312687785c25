"""Leaves daemons behind: new sessions, orphaned twice, deaf to signals, holding the log open, writing for ever."""

import os
import signal
import time

for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            while True:
                print("still here", flush=True)
                time.sleep(0.01)
        os._exit(0)
time.sleep(0.3)
print("main is done", flush=True)
