"""Timers, queued signals, event descriptors and watches without end."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
timer = ctypes.c_void_p()
timers = 0
while timers < 100_000 and libc.timer_create(1, None, ctypes.byref(timer)) == 0:
    timers += 1
watches = 0
while watches < 20_000 and libc.inotify_init() >= 0:
    watches += 1
events = 0
try:
    while events < 20_000:
        os.eventfd(1)
        events += 1
except OSError:
    pass
print("timers", timers, "watches", watches, "events", events, flush=True)
