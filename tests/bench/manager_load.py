"""One sandbox-manager under load: how busy its slots are, and what grows over many runs.

    python tests/bench/manager_load.py [--sandbox bubblewrap] [--queued 100] [--row 200]

Prints one Markdown table. Slots are busy between AgentStarted and the run's end; counted while runs wait.
"""

import argparse
import asyncio
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from docker_images import docker
from manager_process import ENDS, FakeGateway, ManagerProcess, Requests, limits, requests_on, the_runtime_dir
from nats_process import NatsServer

from ridges.contracts import events as ev

SLOTS = 8
WARM_UP = 20
PYTHON = Path(__file__).parents[2] / ".venv-agent/bin/python"
SLEEPER = "import time\ndef agent_main(problem):\n time.sleep(2)\n return 'diff x'"
NOTHING = "def agent_main(problem): return 'diff x'"


async def spans_of(requests: Requests, ids: list[str]) -> list[tuple[float, float]]:
    """When each run held its slot."""
    spans = []
    for run_id in ids:
        end = await requests.wait(run_id, *ENDS, timeout_s=600)
        assert isinstance(end, ev.PatchProduced), end
        (start,) = await requests.events(run_id, ev.AgentStarted)
        spans.append((start.time.timestamp(), end.time.timestamp()))
    return spans


def busy(spans: list[tuple[float, float]]) -> float:
    """Part of the slots that is taken from when they are first full until the last waiting run begins."""
    starts = sorted(start for start, _ in spans)
    begin, end = starts[SLOTS - 1], starts[-1]
    held = sum(max(0.0, min(stop, end) - max(start, begin)) for start, stop in spans)
    return held / (SLOTS * (end - begin))


def what_grows(manager: ManagerProcess, sandbox: str) -> dict[str, float]:
    process = psutil.Process(manager.pid)
    owner = (manager.state_dir / "installation-id").read_text().strip()
    folders = (manager.state_dir, the_runtime_dir(manager))
    found = {
        "memory, MB": process.memory_info().rss / 1e6,
        "open files": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children(recursive=True)),
        "files in its directories": sum(len(list(folder.rglob("*"))) for folder in folders if folder.exists()),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
    }
    if sandbox == "docker":
        found["containers"] = len(docker("ps", "-aq", "--filter", f"label=ridges.owner={owner}").split())
        found["networks"] = len(docker("network", "ls", "-q").split())
    return found


async def measure(sandbox: str, queued: int, row: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nats = await asyncio.to_thread(NatsServer(folder / "nats").start)
        await asyncio.to_thread(nats.migrate_now)
        settings = {"sandbox": sandbox, "slots": SLOTS, "ack_wait_s": 30}
        if PYTHON.exists():
            settings["agent_python"] = PYTHON
        try:
            async with FakeGateway().serving() as gateway, requests_on(nats, folder) as requests:
                manager = ManagerProcess(folder, nats=nats, gateway_url=gateway.url, **settings)
                await manager.start()
                print(f"| {sandbox}, {datetime.now().date()} | |\n|---|---|")  # noqa: DTZ005
                await slots_busy(requests, queued)
                await growth(requests, manager, sandbox, row)
                await manager.end()
        finally:
            nats.kill9()


async def slots_busy(requests: Requests, queued: int) -> None:
    ids = [await requests.run(SLEEPER, limits=limits()) for _ in range(queued)]
    spans = await spans_of(requests, ids)
    took = max(end for _, end in spans) - min(start for start, _ in spans)
    print(f"| {queued} runs of a 2 s agent queued on {SLOTS} slots: slots busy | {busy(spans):.1%} |")
    print(f"| the same: from the first start to the last end | {took:.1f} s |")


async def growth(requests: Requests, manager: ManagerProcess, sandbox: str, row: int) -> None:
    await spans_of(requests, [await requests.run(NOTHING, limits=limits()) for _ in range(WARM_UP)])
    await asyncio.sleep(1)
    before = what_grows(manager, sandbox)
    spans = await spans_of(requests, [await requests.run(NOTHING, limits=limits()) for _ in range(row)])
    await asyncio.sleep(1)
    took = max(end for _, end in spans) - min(start for start, _ in spans)
    print(f"| {row} runs of a do-nothing agent, {SLOTS} at once, without their evaluation | {row / took:.1f} runs/s |")
    for what, after in what_grows(manager, sandbox).items():
        print(f"| {what}: before → after {row} runs | {before[what]:.0f} → {after:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", default="bubblewrap", choices=["docker", "bubblewrap"])
    parser.add_argument("--queued", type=int, default=100)
    parser.add_argument("--row", type=int, default=200)
    options = parser.parse_args()
    asyncio.run(measure(options.sandbox, options.queued, options.row))


if __name__ == "__main__":
    main()
