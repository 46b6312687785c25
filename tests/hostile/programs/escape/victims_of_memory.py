"""Wants others to be killed in its place when memory ends: its own score, the first process's."""

import os

with open("/proc/self/oom_score_adj") as file:
    own = int(file.read())
if own != 1000:
    print("BROKE OUT: its score is", own)
for pid, score in (("self", "-1000"), ("1", "1000"), (str(os.getppid()), "1000")):
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(score)
        print("BROKE OUT: score of", pid, score, flush=True)
    except OSError:
        pass
hoard = []
while True:
    hoard.append(bytearray(b"x" * (8 << 20)))
