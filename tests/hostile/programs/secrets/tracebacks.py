"""Makes everything fail that is not its own, and reads what the failures say."""

import os
import re
import subprocess
import sys

if os.environ.get("NESTED"):  # the agent runner below loads this very file again
    raise RuntimeError("nested")
nested = os.environ | {"NESTED": "1"}
said = ""
for command in (
    [sys.executable, "/sandbox/agent_runner.py", "x"],
    ["git", "-C", "/sandbox/repo", "fetch", "origin"],
    ["git", "-C", "/sandbox/repo", "log", "--all", "--show-signature"],
    ["pip", "download", "--retries", "0", "--timeout", "1", "nothing-at-all"],
    ["pip", "config", "list", "-v"],
    ["curl", "-v", "http://127.0.0.1:1"],
    ["env"],
    ["mount"],
    ["cat", "/etc/hosts", "/etc/resolv.conf", "/proc/self/cgroup"],
):
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=3, env=nested)
        said += done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        said += repr(error)
for frame in sys._current_frames().values():
    while frame:
        said += repr(frame.f_locals)[:20_000]
        frame = frame.f_back
if found := re.search("CANARY" + "-[0-9a-f]{16}|[0-9a-f-]{36}" + r"\.[0-9a-f]{64}", said):
    print("BROKE OUT:", found[0][:12])
if found := re.search(r"://[^/\s:]+:[^/\s@]+@", said):
    print("BROKE OUT: a password in an address", found[0])
