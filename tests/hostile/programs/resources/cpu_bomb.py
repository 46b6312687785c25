"""Spins in many processes; asks for a better priority, real time, other processors."""

import ctypes
import os
import time

for act in (lambda: os.nice(-20), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))):
    try:
        act()
        print("BROKE OUT: a better priority")
    except OSError:
        pass
if ctypes.CDLL(None).syscall(251, 1, 0, 1 << 13) == 0:  # ioprio_set, real time; x86_64
    print("BROKE OUT: real-time disk priority")
for _ in range(7):
    if os.fork() == 0:
        break
end = time.monotonic() + 1.5
while time.monotonic() < end:
    pass
