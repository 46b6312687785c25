"""Starts threads that wait, until no more start."""

import threading

forever = threading.Event()
started = 0
try:
    while started < 5000:
        threading.Thread(target=forever.wait, daemon=True).start()
        started += 1
except RuntimeError:
    pass
print("threads", started, flush=True)
if started > 128:
    print("BROKE OUT: more threads than allowed")
