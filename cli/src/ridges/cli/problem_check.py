"""``ridges problem check``: asks the evaluator to prove problems sound."""

import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
from typing import TypeVar

import msgspec

from ridges.cli import render
from ridges.cli.config import project_root
from ridges.cli.embedded import control
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError, Exit
from ridges.cli.system import say
from ridges.cli.terminal_text import printable
from ridges.contracts.views import ProblemRow

CHECK_TIMEOUT_S = 3_600
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One question about a problem and its answer."""

    name: str
    ok: bool
    detail: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the evaluator found out about a problem."""

    problem_id: str
    problem_digest: str | None
    ok: bool
    findings: tuple[Finding, ...]
    evaluations: tuple[dict[str, object], ...]
    """Verdict, cause and counts of each evaluation behind the findings."""


class ProblemsAtEvaluator(msgspec.Struct, frozen=True, kw_only=True):
    """The problem folders as the evaluator read them."""

    problems: tuple[ProblemRow, ...]
    broken: tuple["Broken", ...]


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that is no problem; the check tells why."""

    problem_id: str


def check_problems(problem: str | None, as_json: bool) -> Exit:
    """Exit code 0 when every checked problem is sound, else 1."""
    if url := os.environ.get("RIDGES_EVALUATOR_URL"):
        return _check(url, problem, as_json)
    with control.running(StateDir(project_root()), None, lambda text: say(f"starting {text} …")) as system:
        return _check(system.evaluator_url, problem, as_json)


def _check(url: str, problem: str | None, as_json: bool) -> Exit:
    names = [problem] if problem else _all_problems(url)
    reports: list[Report] = []
    for name in names:
        say(f"checking {name} …")
        reports.append(_call(f"{url}/v1/checks", Report, {"problem_id": name}))
    if as_json:
        render.json_document(reports)
    else:
        for report in reports:
            _print(report)
    return Exit.RESOLVED if all(report.ok for report in reports) else Exit.NOT_RESOLVED


def _all_problems(url: str) -> list[str]:
    read = _call(f"{url}/v1/problems", ProblemsAtEvaluator)
    return sorted([row.problem_id for row in read.problems] + [folder.problem_id for folder in read.broken])


def _print(report: Report) -> None:
    sys.stdout.write(f"{printable(report.problem_id)}: {'sound' if report.ok else 'NOT sound'}\n")
    for finding in report.findings:
        mark = "ok     " if finding.ok else "PROBLEM"
        sys.stdout.write(f"  {mark}  {finding.name}: {printable(finding.detail)}\n")


def _call(url: str, kind: type[T], body: object = None) -> T:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=content, headers={"Content-Type": "application/json"})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=CHECK_TIMEOUT_S) as response:
            return msgspec.json.decode(response.read(), type=kind)
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        code = Exit.USAGE if error.code < 500 else Exit.OUR_FAULT
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = str(json.loads(text)["detail"])
        raise CliError(text, code) from error
    except OSError as error:
        raise CliError(f"the evaluator does not answer at {url}: {error}") from error
