"""Leaves dead children unburied, then orphans for the first process to bury."""

import os
import time

dead = 0
try:
    while dead < 2000:
        if os.fork() == 0:
            os._exit(0)
        dead += 1
except OSError:
    pass
print("dead", dead, flush=True)
if dead > 128:
    print("BROKE OUT: more processes than allowed")
time.sleep(0.3)
