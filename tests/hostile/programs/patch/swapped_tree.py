"""Swaps the repository itself for a link, and its parent for a file, while daemons keep doing it."""

import os
import time

os.chdir("/sandbox")
os.rename("repo", "kept")
os.symlink("/etc", "repo")
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                os.unlink("repo")
                os.symlink("/proc/1/root", "repo")
                os.unlink("repo")
                os.symlink("/usr", "repo")
            except OSError:
                pass
time.sleep(0.3)
