"""What a sandbox costs: median wall time of a do-nothing command, beside bare bwrap.

Run: python tests/bench/sandbox_start.py
"""

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sandboxes import sandbox_spec, tar_of

from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox, _find_bwrap
from ridges.sandbox_manager.interpreter import find_interpreter

ROUNDS = 25
BARE = ("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1")
ROOT = ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--")


def median_ms(times: list[float]) -> str:
    return f"{statistics.median(times) * 1000:.0f} ms (fastest {min(times) * 1000:.0f})"


def bare(*command: str) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run([_find_bwrap(None), *BARE, *ROOT, *command], check=True)
        times.append(time.perf_counter() - began)
    return times


async def ours(sandbox: BubblewrapSandbox, **changes) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await sandbox.run(sandbox_spec("true", **changes), asyncio.Event())
        times.append(time.perf_counter() - began)
    return times


async def main() -> None:
    python = str(find_interpreter(None).supervisor_executable)
    repo = tar_of({f"repo/dir{n % 10}/file{n}.py": f"x = {n}\n" * 50 for n in range(100)})
    print("bare bwrap, true            ", median_ms(bare("true")))
    print("bare bwrap, python -I -S    ", median_ms(bare(python, "-I", "-S", "-c", "")))
    print("sandbox, true               ", median_ms(await ours(BubblewrapSandbox())))
    print("sandbox, true, no cgroups   ", median_ms(await ours(BubblewrapSandbox(control_groups=False))))
    print("sandbox, repository of 100  ", median_ms(await ours(BubblewrapSandbox(), files=(repo,), repo=True)))


asyncio.run(main())
