"""What goes into an evaluation sandbox: pristine workspace, vetted patch, hidden tests, grader, plan."""

import marshal
import re
import secrets
from collections.abc import Iterable
from functools import cache
from importlib.resources import files as package_files
from importlib.util import MAGIC_NUMBER
from typing import Literal

import msgspec

from ridges.contracts.events import SandboxFile
from ridges.evaluator.canaries import CanaryFile, ProbeFile, canary_file, probe_file, ways_to_fail
from ridges.evaluator.domain import Plan, Problem, Round, SourceFile
from ridges.evaluator.patches import VettedPatch
from ridges.evaluator.problems.tree import files_of, moved, pack

COMMAND = ("python3", "-I", "grading/start.py")
"""Relative to the sandbox's working directory ``/sandbox``."""
REPORT = SandboxFile(path="/sandbox/grading/report.json", max_bytes=48 * 1024 * 1024)
STARTUP_S = 30
"""What grader, patch and interpreter starts may take beside the tests."""
_PROGRAMS = ("start", "grade", "pytest_processes", "repository", "run_tests")
_PLAN = "grading/plan.json"
_plan = msgspec.json.Decoder(Plan)
"""Made at once: verdicts are given in threads, and msgspec shows a thread what another one has half built of a type."""


RoundKind = Literal["tests", "probes", "discovery"]


def make_plan(problem: Problem, patch: VettedPatch | None, timeout_s: int, *, discover: bool = False) -> Plan:
    """A fresh plan: new nonce, new canaries, one round per hidden test file and one of probes."""
    names: dict[str, list[str]] = {}
    for test in problem.expected:
        names.setdefault(test.id.partition("::")[0], []).append(test.id)
    ways = _ways_to_fail(problem)
    rounds = [_round("tests", (file,), ids, {}, ways) for file, ids in names.items()]
    if problem.probes:
        rounds += _probe_round(problem, names, ways)
    if discover:
        rounds.append(_round("discovery", names, names, {}, ways))
    return Plan(
        nonce=secrets.token_hex(32),
        problem_id=problem.problem_id,
        problem_digest=problem.problem_digest,
        patch=patch is not None,
        flagged=patch.flagged if patch else (),
        python_path=problem.python_path,
        timeout_s=timeout_s,
        rounds=tuple(rounds),
        expected=problem.expected,
    )


def _ways_to_fail(problem: Problem) -> frozenset[str]:
    """How the hidden tests can fail, by the words of all that lies beside them."""
    sources = [file.content.decode("utf-8", "replace") for name, file in problem.tests.items() if name.endswith(".py")]
    own = set(problem.tests)
    for root in problem.python_path:
        prefix = f"{root}/" if root else ""
        own |= {name[len(prefix) :] for name in problem.workspace if name.startswith(prefix)}
    return ways_to_fail(tuple(sources), frozenset(re.split("[/.]", name, maxsplit=1)[0] for name in own))


def _round(
    kind: RoundKind, files: Iterable[str], select: Iterable[str], replaced: dict[str, str], ways: frozenset[str]
) -> Round:
    canaries: CanaryFile = canary_file(ways)
    return Round(
        kind=kind,
        folder=f"t{secrets.token_hex(6)}",
        files=tuple(files),
        select=tuple(select),
        replaced=replaced,
        canary_file=f"t{secrets.token_hex(6)}/test_{secrets.token_hex(4)}.py",
        canary_source=canaries.source,
        must_pass=canaries.must_pass,
        must_fail=canaries.must_fail,
    )


def _probe_round(problem: Problem, names: dict[str, list[str]], ways: frozenset[str]) -> list[Round]:
    """One round of probes over all test files; empty when no hidden test is fit."""
    probes: dict[str, ProbeFile] = {}
    for file, ids in names.items():
        allowed = frozenset(test.partition("[")[0].partition("::")[2] for test in ids)
        probe = probe_file(problem.tests[file].content.decode(), allowed)
        if probe is not None:
            probes[file] = probe
    if not probes:
        return []
    select = [f"{file}::{test}" for file, probe in probes.items() for test in probe.tests]
    return [_round("probes", probes, select, {file: probe.source for file, probe in probes.items()}, ways)]


def make_bundle(problem: Problem, patch: VettedPatch | None, plan: Plan, fixed: bytes | None = None) -> bytes:
    """The tar for ``/sandbox``. ``fixed``: the problem's ``fixed_part``, where it was made before."""
    tree = {
        "patch.diff": SourceFile(patch.content if patch else b""),
        _PLAN: SourceFile(msgspec.json.encode(plan)),
        "grading/rounds": SourceFile(str(len(plan.rounds)).encode()),  # the grader wants it before the plan
    }
    return pack(tree, open_end=True) + (fixed_part(problem) if fixed is None else fixed)


def fixed_part(problem: Problem) -> bytes:
    """What all bundles of a problem have in common."""
    tree = moved(problem.workspace, "repo") | moved(problem.tests, "grading/tests")
    return pack(tree | moved(_programs(), "grading"))


@cache
def _programs() -> dict[str, SourceFile]:
    """The grader, for any interpreter; and compiled for those that read this one's byte code, which saves them 7 ms."""
    inside = package_files("ridges.evaluator") / "inside"
    sources = {name: (inside / f"{name}.py").read_bytes() for name in _PROGRAMS}
    codes = {name: compile(text, f"<{name}>", "exec", dont_inherit=True) for name, text in sources.items()}
    files = {f"{name}.py": SourceFile(text) for name, text in sources.items()}
    return files | {"compiled": SourceFile(MAGIC_NUMBER + marshal.dumps(codes))}


def plan_of(bundle: bytes) -> Plan:
    """The plan that a bundle carries: how the verdict knows what was asked, without a memory of its own."""
    for name, file in files_of(bundle):
        if name == _PLAN:
            return _plan.decode(file.content)
    raise KeyError(_PLAN)


def sandbox_timeout_s(plan: Plan) -> int:
    """How long the sandbox may live: the grader's own deadlines come first, so that a report is left."""
    kinds = {part.kind for part in plan.rounds}
    return plan.timeout_s * len(kinds) + STARTUP_S
