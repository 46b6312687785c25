"""``ridges problem check``: asks the evaluator to prove problems sound."""

import sys

from ridges.cli import render
from ridges.cli.errors import Exit
from ridges.cli.evaluator_client import Report, check_problem, problem_folders
from ridges.cli.system import any_evaluator, say
from ridges.cli.terminal_text import printable


def check_problems(problem: str | None, as_json: bool) -> Exit:
    """Exit code 0 when every checked problem is sound, else 1."""
    with any_evaluator() as url:
        reports: list[Report] = []
        for name in [problem] if problem else _all_problems(url):
            say(f"checking {name} …")
            reports.append(check_problem(url, name))
    if as_json:
        render.json_document(reports)
    else:
        for report in reports:
            _print(report)
    return Exit.RESOLVED if all(report.ok for report in reports) else Exit.NOT_RESOLVED


def _all_problems(url: str) -> list[str]:
    read = problem_folders(url)
    return sorted([row.problem_id for row in read.problems] + [folder.problem_id for folder in read.broken])


def _print(report: Report) -> None:
    sys.stdout.write(f"{printable(report.problem_id)}: {'sound' if report.ok else 'NOT sound'}\n")
    for finding in report.findings:
        mark = "ok     " if finding.ok else "PROBLEM"
        sys.stdout.write(f"  {mark}  {finding.name}: {printable(finding.detail)}\n")
