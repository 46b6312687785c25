"""What a run costs beyond the agent's own work: with a do-nothing agent, by sandbox and by how many at once.

    python tests/bench/whole_runs.py [--sandbox bubblewrap] [--runs 24]

Prints one Markdown table: time of one run and runs per second at 1, 4 and 8 at once, on a problem of ours whose one
hidden test costs nothing and on a real one; time to the agent's first line; idle memory. As many evaluations as
agents may be at work.
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
TINY = "answer"
SLOTS = 8
TINY_FILES = {
    "instructions.md": "# The answer\n\nWrite `answer()`, which returns 42.\n",
    "main.py": "def answer():\n    pass\n",
    "solution.py": "def answer():\n    return 42\n",
    "tests.py": "from main import answer\n\n\ndef test_answer():\n    assert answer() == 42\n",
    "problem.toml": 'kind = "create"\ntitle = "The answer"\n\n[tests]\nexpected = ["tests.py::test_answer"]\n',
}
"""All that a run on it takes is our own."""
NOTE = "diff --git a/N b/N\nnew file mode 100644\n--- /dev/null\n+++ b/N\n@@ -0,0 +1 @@\n+n\n"
AGENT = f"import time\nprint(time.time(), flush=True)\n\ndef agent_main(problem):\n    return {NOTE!r}\n"


def bench_project(folder: Path) -> Project:
    """A user's folder with the tiny problem in it, and slots for all that is asked at once."""
    project = Project(folder)
    project.env |= {"RIDGES_SLOTS": str(SLOTS), "RIDGES_EVALUATION_SLOTS": str(SLOTS)}
    place = project.folder / "examples/problems" / TINY
    place.mkdir()
    for name, content in TINY_FILES.items():
        (place / name).write_text(content)
    return project


def one_run(client: LedgerClient, sandbox: str, problem: str = PROBLEM) -> float:
    """Seconds from the request to the verdict, by the log's own times."""
    asked = client.request_run(RequestRun(problem=problem, agent_source=AGENT, sandbox=sandbox))  # type: ignore[arg-type]
    for _ in client.follow(asked.run_id):
        pass
    run = client.run(asked.run_id)
    assert run.verdict == "unresolved", (run.state, run.cause, run.detail)
    assert run.finished_at is not None
    return (run.finished_at - run.requested_at).total_seconds()


def runs_per_second(client: LedgerClient, sandbox: str, at_once: int, runs: int, problem: str) -> float:
    with ThreadPoolExecutor(at_once) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: one_run(client, sandbox, problem), range(runs)))
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
        project = bench_project(Path(folder))
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
    warm = first_line_s(project, sandbox)
    print(f"| {sandbox}, {datetime.now().date()} | {TINY} | {PROBLEM} |\n|---|---|---|")  # noqa: DTZ005
    problems = (TINY, PROBLEM)
    times = [statistics.median(one_run(client, sandbox, problem) for _ in range(runs)) for problem in problems]
    row("one run of a do-nothing agent, request to verdict, median", *(f"{time_s * 1000:.0f} ms" for time_s in times))
    for at_once in (1, 4, 8):
        rates = (runs_per_second(client, sandbox, at_once, runs, problem) for problem in problems)
        row(f"runs per second, {at_once} at once", *(f"{rate:.2f}" for rate in rates))
    row("`ridges run` to the agent's first line, system not running", "", f"{cold:.2f} s")
    row("the same, system running", "", f"{warm:.2f} s")
    for name, megabytes in memory.items():
        row(f"idle memory of {name}", "", f"{megabytes:.0f} MB")


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
