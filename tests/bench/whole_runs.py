"""What a run costs beyond the agent's own work: with a do-nothing agent, by sandbox and by how many at once.

    python tests/bench/whole_runs.py [--sandbox bubblewrap] [--runs 24]

Prints one Markdown table: time of one run, runs per second at 1, 4 and 8 at once, time to the agent's first line,
idle memory.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from e2e.project import Project

from ridges.cli.client import LedgerClient
from ridges.contracts.requests import RequestRun

PROBLEM = "fix-formula-signs"
NOTE = "diff --git a/N b/N\nnew file mode 100644\n--- /dev/null\n+++ b/N\n@@ -0,0 +1 @@\n+n\n"
AGENT = f"import time\nprint(time.time(), flush=True)\n\ndef agent_main(problem):\n    return {NOTE!r}\n"


def one_run(client: LedgerClient, sandbox: str) -> float:
    """Seconds from the request to the verdict, by the log's own times."""
    asked = client.request_run(RequestRun(problem=PROBLEM, agent_source=AGENT, sandbox=sandbox))  # type: ignore[arg-type]
    for _ in client.follow(asked.run_id):
        pass
    run = client.run(asked.run_id)
    assert run.verdict == "unresolved", (run.state, run.cause, run.detail)
    assert run.finished_at is not None
    return (run.finished_at - run.requested_at).total_seconds()


def runs_per_second(client: LedgerClient, sandbox: str, at_once: int, runs: int) -> float:
    with ThreadPoolExecutor(at_once) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: one_run(client, sandbox), range(runs)))
        return runs / (time.perf_counter() - started)


def first_line_s(project: Project, sandbox: str) -> float:
    """Seconds from starting the command to the first line that the agent prints."""
    agent = project.agent("first_line.py", AGENT)
    before = time.time()
    ended = project.ridges("run", "-a", agent, "-p", PROBLEM, "--sandbox", sandbox, "--json")
    run_id = json.loads(ended.stdout)["run_id"]
    up = project.ridges("up", "--json")
    client = LedgerClient(json.loads(up.stdout)["ledger_url"])
    return float(client.log(run_id).splitlines()[0]) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", default="bubblewrap", choices=["docker", "bubblewrap"])
    parser.add_argument("--runs", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        (project.folder / "ridges.toml").open("a").write("\n[sandbox]\nslots = 8\n") if "[sandbox]" not in (
            project.folder / "ridges.toml"
        ).read_text() else None
        cold = first_line_s(project, options.sandbox)
        try:
            measure(project, options.sandbox, options.runs, cold)
        finally:
            project.ridges("down")


def measure(project: Project, sandbox: str, runs: int, cold: float) -> None:
    client = LedgerClient(str(project.state()["ledger_url"]))
    time.sleep(2)
    pids = project.state()["pids"]
    assert isinstance(pids, dict)
    memory = {name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in pids.items()}
    single = [one_run(client, sandbox) for _ in range(runs)]
    warm = first_line_s(project, sandbox)
    print(f"| {sandbox}, {datetime.now().date()} | |\n|---|---|")  # noqa: DTZ005
    print(f"| one run of a do-nothing agent, request to verdict, median | {statistics.median(single) * 1000:.0f} ms |")
    for at_once in (1, 4, 8):
        print(f"| runs per second, {at_once} at once | {runs_per_second(client, sandbox, at_once, runs):.2f} |")
    print(f"| `ridges run` to the agent's first line, system not running | {cold:.2f} s |")
    print(f"| the same, system running | {warm:.2f} s |")
    for name, megabytes in memory.items():
        print(f"| idle memory of {name} | {megabytes:.0f} MB |")


if __name__ == "__main__":
    main()
