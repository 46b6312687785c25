"""The evaluator's HTTP API, as the command line uses it."""

import contextlib
import json
import urllib.error
import urllib.request
from typing import TypeVar

import msgspec

from ridges.cli.errors import CliError, Exit
from ridges.contracts.views import ProblemRow

CHECK_TIMEOUT_S = 3_600
LIST_TIMEOUT_S = 30
T = TypeVar("T")


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that is no problem, and why."""

    problem_id: str
    folder: str
    reasons: tuple[str, ...]


class ProblemFolders(msgspec.Struct, frozen=True, kw_only=True):
    """The problem folders as the evaluator read them."""

    problems: tuple[ProblemRow, ...]
    broken: tuple[Broken, ...]


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


def problem_folders(url: str) -> ProblemFolders:
    """What is in the evaluator's folders.

    Raises:
        CliError: it does not answer.

    """
    return _call(f"{url}/v1/problems", ProblemFolders, timeout_s=LIST_TIMEOUT_S)


def check_problem(url: str, problem_id: str) -> Report:
    """The evaluator's report, after all of its evaluations.

    Raises:
        CliError: it does not answer, or knows no such problem (then with the exit code of wrong use).

    """
    return _call(f"{url}/v1/checks", Report, {"problem_id": problem_id}, timeout_s=CHECK_TIMEOUT_S)


def _call(url: str, kind: type[T], body: object = None, *, timeout_s: float) -> T:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=content, headers={"Content-Type": "application/json"})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return msgspec.json.decode(response.read(), type=kind)
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        code = Exit.USAGE if error.code < 500 else Exit.OUR_FAULT
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = str(json.loads(text)["detail"])
        raise CliError(text, code) from error
    except OSError as error:
        raise CliError(f"the evaluator does not answer at {url}: {error}") from error
