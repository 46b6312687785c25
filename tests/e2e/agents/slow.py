"""Does half of its work and does not come back before its timeout."""

import time
from pathlib import Path


def agent_main(problem):
    Path("repo/half.txt").write_text("half\n")
    print("half done", flush=True)
    time.sleep(600)
