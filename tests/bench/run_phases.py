"""Where the time of a whole run goes: wall time between its events, and CPU time of each service, per run.

    python tests/bench/run_phases.py [--sandbox bubblewrap] [--runs 20] [--at-once 1] [--problem answer]

Prints one Markdown table. CPU of the services is without the sandboxes', and without the
engine's.
"""

import argparse
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.whole_runs import AGENT, PROBLEM, TINY, bench_project
from e2e.project import Project

from ridges.cli.client import LedgerClient
from ridges.contracts import events as ev
from ridges.contracts.events import type_name
from ridges.contracts.requests import RequestRun


def one_run(client: LedgerClient, sandbox: str, problem: str) -> dict[str, float]:
    """Seconds from one event of a run to the next."""
    asked = client.request_run(RequestRun(problem=problem, agent_source=AGENT, sandbox=sandbox))  # type: ignore[arg-type]
    for _ in client.follow(asked.run_id):
        pass
    events = [row.event for row in client.events(asked.run_id)]
    spans = {f"{type_name(a)} → {type_name(b)}": (b.time - a.time).total_seconds() for a, b in pairwise(events)}
    for name, event in (("agent", ev.PatchProduced), ("evaluation", ev.EvaluationSandboxExited)):
        spans[f"CPU of the {name}'s sandbox"] = next(e.exit.cpu_s or 0.0 for e in events if isinstance(e, event))
    return spans | {"whole": (events[-1].time - events[0].time).total_seconds()}


def cpu_s(project: Project) -> dict[str, float]:
    """CPU seconds of each service and of its children that have ended."""
    pids = project.state()["pids"]
    assert isinstance(pids, dict)
    used = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: sum(times[:4]) for name, times in used.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", default="bubblewrap", choices=["docker", "bubblewrap"])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--problem", default=PROBLEM, choices=[PROBLEM, TINY])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = bench_project(Path(folder))
        project.ridges("up", timeout_s=120)
        try:
            measure(project, options)
        finally:
            project.ridges("down")


def measure(project: Project, options: argparse.Namespace) -> None:
    sandbox, runs, at_once, problem = options.sandbox, options.runs, options.at_once, options.problem
    client = LedgerClient(str(project.state()["ledger_url"]))
    for _ in range(2):
        one_run(client, sandbox, problem)
    before = cpu_s(project)
    with ThreadPoolExecutor(at_once) as pool:
        spans = list(pool.map(lambda _: one_run(client, sandbox, problem), range(runs)))
    used = {name: seconds - before[name] for name, seconds in cpu_s(project).items()}
    print(f"| {sandbox}, {problem}, {at_once} at once, {datetime.now().date()} | per run |\n|---|---|")  # noqa: DTZ005
    for span in spans[0]:
        print(f"| {span}, median | {statistics.median(each.get(span, 0.0) for each in spans) * 1000:.0f} ms |")
    for name, seconds in used.items():
        print(f"| CPU of {name} | {seconds / runs * 1000:.0f} ms |")
    print(f"| CPU of all | {sum(used.values()) / runs * 1000:.0f} ms |")


if __name__ == "__main__":
    main()
