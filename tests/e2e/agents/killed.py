"""Is killed in the middle of its work."""

import os
import signal
from pathlib import Path


def agent_main(problem):
    Path("repo/half.txt").write_text("half\n")
    print("half done", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
