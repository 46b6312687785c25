"""Returns 50 milliseconds after its time is over."""

import time

with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
    age = float(uptime.read().split()[0]) - int(stat.read().rpartition(")")[2].split()[19]) / 100
time.sleep(max(0.0, 2.05 - age))
with open("/sandbox/result", "w") as file:
    file.write("complete")
