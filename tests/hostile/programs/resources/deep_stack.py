"""Runs out of stack, in Python and in C."""

import json
import os
import sys

sys.setrecursionlimit(200_000)


def deeper(level):
    return deeper(level + 1) + 1


for act in (lambda: deeper(0), lambda: json.loads("[" * 1_000_000), lambda: compile("(" * 100_000, "deep", "eval")):
    if os.fork() == 0:
        try:
            act()
        except BaseException:
            pass
        os._exit(0)
    os.wait()
print("survived", flush=True)
