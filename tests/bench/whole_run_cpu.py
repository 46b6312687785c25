"""Processor time of whole runs with a do-nothing agent, four at once: all of it, each service's, and the rest, which is
the sandboxes' (bubblewrap; Docker's are the engine's and not counted).

    python tests/bench/whole_run_cpu.py [--runs 40]

Counted by a control group that everything is started in, so that others on the machine disturb it little. Needs root
and control groups of version 1.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from whole_runs import PROBLEM, TINY, bench_project, first_line_s, row, runs_per_second

from ridges.cli.client import LedgerClient

AT_ONCE = 4
SANDBOX = "bubblewrap"


@contextlib.contextmanager
def counted() -> Iterator[Path]:
    """A file with the processor time (ns) of this process and all it starts from now on."""
    group = Path(f"/sys/fs/cgroup/cpuacct/ridges-bench-{os.getpid()}")
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield group / "cpuacct.usage"
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):
            group.rmdir()


def used_ms(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return 1000 * (times.user + times.system)


def measure(client: LedgerClient, pids: dict[str, int], usage: Path, problem: str, runs: int) -> None:
    runs_per_second(client, SANDBOX, AT_ONCE, 2 * AT_ONCE, problem)
    all_before, own_before = int(usage.read_text()), 1000 * time.process_time()
    before = {name: used_ms(pid) for name, pid in pids.items()}
    rate = runs_per_second(client, SANDBOX, AT_ONCE, runs, problem)
    services = {name: (used_ms(pid) - before[name]) / runs for name, pid in pids.items()}
    own = (1000 * time.process_time() - own_before) / runs
    everything = (int(usage.read_text()) - all_before) / 1e6 / runs - own
    sandboxes = everything - sum(services.values())
    each = ", ".join(f"{name} {time_ms:.1f}" for name, time_ms in services.items())
    row(problem, f"{rate:.2f}", f"{everything:.0f} ms", f"{sandboxes:.0f} ms", each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    with counted() as usage, tempfile.TemporaryDirectory() as folder:
        project = bench_project(Path(folder))
        first_line_s(project, SANDBOX)
        try:
            client = LedgerClient(str(project.state()["ledger_url"]))
            pids = project.state()["pids"]
            assert isinstance(pids, dict)
            row("problem", "runs/s", "processor time a run", "sandboxes, nginx, git", "services (ms)")
            row(*["---"] * 5)
            for problem in (TINY, PROBLEM):
                measure(client, pids, usage, problem, options.runs)
        finally:
            project.ridges("down")


if __name__ == "__main__":
    main()
