"""Repositories in the repository, submodules that do not exist, a work tree that loops into itself."""

import os
import subprocess

os.chdir("/sandbox/repo")
quiet = {"capture_output": True, "timeout": 10}
for name in ("inner", "inner/more", "vendor/lib"):
    os.makedirs(name, exist_ok=True)
    subprocess.run(["git", "init", "-q", name], **quiet)
    with open(f"{name}/code.py", "w") as file:
        file.write("x = 1\n")
    subprocess.run(["git", "-C", name, "add", "-A"], **quiet)
    subprocess.run(["git", "-C", name, "commit", "-qm", "x"], **quiet)
subprocess.run(["git", "add", "-A"], **quiet)
subprocess.run(["git", "worktree", "add", "-q", "tree", "HEAD"], **quiet)
subprocess.run(["git", "update-index", "--add", "--cacheinfo", "160000", "1" * 40, "ghost"], **quiet)
print("nested", flush=True)
