"""Returns 50 milliseconds before its time is over; its result is complete when its exit is."""

import time

with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
    age = float(uptime.read().split()[0]) - int(stat.read().rpartition(")")[2].split()[19]) / 100
time.sleep(max(0.0, 1.95 - age))
with open("/sandbox/result", "w") as file:
    file.write("complete")
