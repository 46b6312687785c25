"""The evaluator's own nouns: a problem with its hidden side, and the plan that a grader carries out."""

from collections.abc import Mapping
from typing import Literal
from uuid import UUID, uuid5

import msgspec

from ridges.contracts.limits import SandboxLimits

Category = Literal["default", "pass_to_pass", "fail_to_pass"]
Kind = Literal["fix", "create"]

_EVENT_IDS = UUID("5b1f7c0e-6a0e-5c5a-9d6b-2f6f0c1d7e11")


def event_id(*parts: object) -> str:
    """A UUIDv5 from what the event is about, so that a redelivered message appends the very same event again."""
    return str(uuid5(_EVENT_IDS, "\x1f".join(str(part) for part in parts)))


class SourceFile(msgspec.Struct, frozen=True):
    """A regular file of a problem."""

    content: bytes
    executable: bool = False


Tree = Mapping[str, SourceFile]
"""Relative POSIX path -> file."""


class ExpectedTest(msgspec.Struct, frozen=True, kw_only=True):
    """A hidden test that decides."""

    id: str
    """``<file>::[Class::]test_name[params]``, the file relative to the hidden tests."""
    category: Category


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One edition of a problem, hidden side included."""

    problem_id: str
    problem_digest: str
    kind: Kind
    title: str
    statement: str
    workspace: Tree
    """What the agent sees as its repository."""
    tests: Tree
    """Hidden tests, relative to their folder."""
    reference: bytes
    """Git-style patch that solves the problem."""
    solution: bytes
    """The file that holds the solution, as it is in the folder."""
    expected: tuple[ExpectedTest, ...]
    python_path: tuple[str, ...] = ("",)
    """Folders of the workspace that the tests import from; ``""`` is its root."""
    probes: bool = True
    """Whether tests with a replaced expected value may be used as canaries."""
    agent_timeout_s: int | None = None
    evaluation_timeout_s: int | None = None
    image: str | None = None
    sandbox: SandboxLimits | None = None


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One pytest process of an evaluation."""

    kind: Literal["tests", "probes", "discovery"]
    """``discovery`` runs whatever the files hold; only the check of a problem asks for it."""
    folder: str
    """Random name of the folder that holds the hidden tests."""
    files: tuple[str, ...]
    """Test files to run, relative to the hidden tests."""
    select: tuple[str, ...]
    """Ids that may run; one without ``[`` stands for all its parameters, a file's name for all its tests."""
    replaced: dict[str, str]
    """Test file -> source that takes its place (probes)."""
    canary_file: str
    """Random path of the canary file, beside ``folder``."""
    canary_source: str
    must_pass: tuple[str, ...]
    """Names of canary tests."""
    must_fail: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the grader does inside one sandbox. Travels in the bundle; removed before any code of the patch runs."""

    nonce: str
    """Random; the report must bring it back."""
    problem_id: str
    problem_digest: str
    patch: bool
    """Whether there is a patch at all (the check of a problem also grades none)."""
    flagged: tuple[str, ...]
    """Paths to put back from the pristine tree after the patch was applied."""
    python_path: tuple[str, ...]
    timeout_s: int
    """For all rounds of kind ``tests`` together; each other kind gets as much again."""
    rounds: tuple[Round, ...]
    expected: tuple[ExpectedTest, ...]


class RoundReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the grader saw of one round."""

    exit_code: int | None
    """Of the pytest process; negative = signal; null = did not run."""
    timed_out: bool = False
    duration_s: float = 0.0
    junit: str | None = None
    junit_problem: str | None = None
    disk_full: bool = False
    """Next to nothing was left of the sandbox's disk when the process had ended."""


class GraderReport(msgspec.Struct, frozen=True, kw_only=True):
    """``report.json``."""

    nonce: str
    error: str | None = None
    """The grader itself failed before any code of the patch ran."""
    applied: bool = False
    apply_message: str = ""
    put_back: tuple[str, ...] = ()
    """Flagged paths, and what only the sandbox can tell: modules that shadow an installed one, pytest settings."""
    rounds: tuple[RoundReport, ...] = ()
    duration_s: float = 0.0
