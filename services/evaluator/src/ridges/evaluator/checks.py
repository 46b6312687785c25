"""Is a problem fit to judge agents? Its reference passes, no change fails, repeats agree, the future is hidden."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from ridges.contracts.events import ExitFacts
from ridges.contracts.faults import Cause
from ridges.evaluator.bundle import make_bundle, make_plan
from ridges.evaluator.diffs import MalformedDiff, parse
from ridges.evaluator.domain import Plan, Problem
from ridges.evaluator.errors import EvaluationLost, PatchRefused
from ridges.evaluator.patches import VettedPatch, vet
from ridges.evaluator.verdict import Judgement, discovered, judge

DEFAULT_TIMEOUT_S = 600
_TOO_SHORT_TO_TELL = 40
"""Bytes: a shorter file (an empty __init__.py) may well be equal to another."""


class SandboxLeft(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox that ran a bundle left behind."""

    report: bytes | None
    exit: ExitFacts


RunSandbox = Callable[[Plan, bytes], Awaitable[SandboxLeft]]
"""Runs one bundle in a sandbox. Raises EvaluationLost when no sandbox could be had."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One question and its answer."""

    name: str
    ok: bool
    detail: str


class CheckedEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One of the evaluations behind the findings."""

    patch: str
    """``reference`` or ``empty``."""
    verdict: str | None
    """None: no verdict, see cause."""
    cause: Cause | None
    detail: str | None
    passed: int
    total: int


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``ridges problem check``."""

    problem_id: str
    problem_digest: str | None
    ok: bool
    findings: tuple[Finding, ...]
    evaluations: tuple[CheckedEvaluation, ...] = ()


async def check_problem(problem: Problem, run_sandbox: RunSandbox, repeats: int = 3) -> CheckReport:
    """The report on a problem that could be loaded. Runs ``repeats`` + 1 sandboxes at once."""
    findings = [Finding(name="complete", ok=True, detail=f"{len(problem.expected)} hidden tests decide")]
    findings.append(_hidden_future(problem))
    try:
        reference = vet(problem.reference, problem.workspace, problem.python_path)
    except PatchRefused as refused:
        findings.append(Finding(name="reference patch", ok=False, detail=refused.detail))
        return _report(problem, findings, ())
    findings.append(_reference_patch(reference))
    outcomes = await asyncio.gather(
        _evaluate(problem, None, run_sandbox, discover=False),
        *(_evaluate(problem, reference, run_sandbox, discover=number == 0) for number in range(max(repeats, 1))),
    )
    empty, first, references = outcomes[0], outcomes[1], outcomes[1:]
    findings.append(_reference_passes([outcome.judgement for outcome in references]))
    findings.append(_empty_fails(problem, empty.judgement))
    findings.append(_repeats_agree([outcome.judgement for outcome in references]))
    findings.append(_listed_are_all(problem, first.found))
    evaluations = (
        *(_shown("reference", outcome.judgement) for outcome in references),
        _shown("empty", empty.judgement),
    )
    return _report(problem, findings, evaluations)


def broken_report(problem_id: str, reasons: Sequence[str]) -> CheckReport:
    """The report on a problem that could not even be loaded."""
    finding = Finding(name="complete", ok=False, detail="; ".join(reasons))
    return CheckReport(problem_id=problem_id, problem_digest=None, ok=False, findings=(finding,))


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    judgement: Judgement | EvaluationLost
    found: tuple[str, ...] = ()


async def _evaluate(
    problem: Problem, patch: VettedPatch | None, run_sandbox: RunSandbox, *, discover: bool
) -> _Outcome:
    plan = make_plan(problem, patch, problem.evaluation_timeout_s or DEFAULT_TIMEOUT_S, discover=discover)
    try:
        left = await run_sandbox(plan, make_bundle(problem, patch, plan))
        return _Outcome(judgement=judge(plan, left.report, left.exit), found=discovered(plan, left.report))
    except EvaluationLost as lost:
        return _Outcome(judgement=lost)


def _report(problem: Problem, findings: list[Finding], evaluations: tuple[CheckedEvaluation, ...]) -> CheckReport:
    return CheckReport(
        problem_id=problem.problem_id,
        problem_digest=problem.problem_digest,
        ok=all(finding.ok for finding in findings),
        findings=tuple(findings),
        evaluations=evaluations,
    )


def _shown(patch: str, judged: Judgement | EvaluationLost) -> CheckedEvaluation:
    tests = () if isinstance(judged, EvaluationLost) else judged.tests
    return CheckedEvaluation(
        patch=patch,
        verdict=None if isinstance(judged, EvaluationLost) else judged.verdict,
        cause=judged.cause,
        detail=judged.detail,
        passed=sum(test.status == "pass" for test in tests),
        total=len(tests),
    )


def _hidden_future(problem: Problem) -> Finding:
    secrets = {file.content for file in problem.tests.values()}
    secrets |= {problem.solution, *_created_files(problem.reference)}
    seen = [
        name
        for name, file in problem.workspace.items()
        if (file.content in secrets and len(file.content) > _TOO_SHORT_TO_TELL) or ".git" in name.split("/")
    ]
    detail = (
        f"the agent could read {', '.join(seen)}" if seen else "no hidden test, solution or history in the workspace"
    )
    return Finding(name="the future is hidden", ok=not seen, detail=detail)


def _created_files(reference: bytes) -> Iterator[bytes]:
    """Whole files that the reference patch creates."""
    try:
        parsed = parse(reference)
    except MalformedDiff:
        return
    for file in parsed.files:
        if file.old_path is None:
            lines = [line for hunk in file.hunks for line in hunk.side("+")]
            yield "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")


def _reference_patch(reference: VettedPatch) -> Finding:
    if reference.flagged:
        detail = f"it changes test infrastructure, which is put back: {', '.join(reference.flagged)}"
    elif reference.mended:
        detail = f"it had to be mended: {', '.join(reference.mended)}"
    else:
        detail = f"it changes {len(reference.paths)} files"
    return Finding(name="reference patch", ok=not reference.flagged, detail=detail)


def _reference_passes(judged: Sequence[Judgement | EvaluationLost]) -> Finding:
    for judgement in judged:
        if isinstance(judgement, EvaluationLost):
            return Finding(name="reference passes", ok=False, detail=f"no verdict: {judgement.detail}")
        if judgement.verdict != "resolved":
            failed = [test.name for test in judgement.tests if test.status != "pass"]
            detail = judgement.detail or f"{len(failed)} tests do not pass, first {failed[0]}"
            return Finding(name="reference passes", ok=False, detail=detail)
    return Finding(name="reference passes", ok=True, detail=f"{len(judged)} of {len(judged)} times")


def _empty_fails(problem: Problem, judged: Judgement | EvaluationLost) -> Finding:
    name = "empty patch fails"
    if isinstance(judged, EvaluationLost):
        return Finding(name=name, ok=False, detail=f"no verdict: {judged.detail}")
    if judged.verdict == "resolved":
        return Finding(name=name, ok=False, detail="all tests pass without any change: they do not test the statement")
    wrong = [
        f"{test.name} ({'passes' if test.status == 'pass' else 'fails'} before the change)"
        for test in judged.tests
        if (test.category == "fail_to_pass" and test.status == "pass")
        or (test.category == "pass_to_pass" and test.status != "pass")
    ]
    if problem.kind == "fix" and wrong:
        return Finding(name=name, ok=False, detail=f"in the wrong list: {', '.join(wrong)}")
    failed = sum(test.status != "pass" for test in judged.tests)
    return Finding(name=name, ok=True, detail=f"{failed} of {len(judged.tests)} tests fail without a change")


def _repeats_agree(judged: Sequence[Judgement | EvaluationLost]) -> Finding:
    statuses: dict[str, set[str]] = {}
    for judgement in judged:
        if isinstance(judgement, Judgement):
            for test in judgement.tests:
                statuses.setdefault(test.name, set()).add(test.status)
    flaky = sorted(name for name, seen in statuses.items() if len(seen) > 1)
    detail = (
        f"flaky, take them out of the lists: {', '.join(flaky)}" if flaky else f"{len(judged)} runs, the same results"
    )
    return Finding(name="repeats agree", ok=not flaky, detail=detail)


def _listed_are_all(problem: Problem, found: tuple[str, ...]) -> Finding:
    """A fix problem may leave tests out on purpose; of a create problem all tests decide."""
    name = "listed tests are those that run"
    listed = {test.id for test in problem.expected}
    absent, unlisted = sorted(listed - set(found)), sorted(set(found) - listed)
    if absent:
        return Finding(name=name, ok=False, detail=f"listed, but did not run: {', '.join(absent[:5])}")
    if unlisted:
        return Finding(name=name, ok=problem.kind == "fix", detail=f"run, but not listed: {', '.join(unlisted[:5])}")
    return Finding(name=name, ok=True, detail=f"{len(found)} tests")
