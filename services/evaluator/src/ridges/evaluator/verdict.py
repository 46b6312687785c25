"""From what a sandbox left behind to a verdict. Nothing that patched code may have written is believed unchecked."""

from collections.abc import Iterable, Mapping
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

import msgspec
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]  # it has no stubs
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from ridges.contracts.events import ExitFacts, TestResult
from ridges.contracts.faults import Cause
from ridges.evaluator.domain import GraderReport, Plan, Round, RoundReport
from ridges.evaluator.errors import EvaluationLost

MESSAGE_CHARS = 2_000
_TESTS_FAILED = 1
"""Pytest's exit status when some test failed: always so here, since canaries fail."""

Status = Literal["pass", "fail", "skip"]

_report = msgspec.json.Decoder(GraderReport)
"""Made at once: verdicts are given in threads, and msgspec shows a thread what another one has half built of a type."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What ``TestsFinished`` says."""

    verdict: Literal["resolved", "unresolved"]
    tests: tuple[TestResult, ...]
    cause: Cause | None = None
    detail: str | None = None
    flagged: tuple[str, ...] = ()


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    status: Status
    duration_s: float | None
    message: str | None


class _Suspect(Exception):
    """The round says nothing that can be trusted (or nothing at all)."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause, self.detail = cause, detail


def unresolved(
    plan_tests: Iterable[tuple[str, str]], cause: Cause, detail: str, flagged: tuple[str, ...] = ()
) -> Judgement:
    """The judgement when no test counts: all of them failed, for the same reason."""
    tests = tuple(_result(name, category, None, detail) for name, category in plan_tests)
    return Judgement(verdict="unresolved", tests=tests, cause=cause, detail=detail, flagged=flagged)


def judge(plan: Plan, report: bytes | None, exit_facts: ExitFacts) -> Judgement:
    """The verdict on one evaluation.

    Raises:
        EvaluationLost: the sandbox lacked what the grader needs, before any code of the patch ran.
    """
    expected = [(test.id, test.category) for test in plan.expected]
    found = _authentic(plan, report)
    if found is None:
        return unresolved(expected, *_without_report(report, exit_facts), plan.flagged)
    flagged = tuple(dict.fromkeys((*plan.flagged, *found.put_back)))
    if found.error is not None:
        raise EvaluationLost(Cause.EVALUATOR_FAILED, f"the grader could not start: {found.error}")
    if not found.applied:
        return unresolved(expected, Cause.PATCH_DOES_NOT_APPLY, found.apply_message, flagged)
    judgement = _judge_rounds(plan, found, exit_facts)
    return msgspec.structs.replace(judgement, flagged=flagged)


def _authentic(plan: Plan, report: bytes | None) -> GraderReport | None:
    try:
        found = _report.decode(report or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found if found.nonce == plan.nonce else None


def _without_report(report: bytes | None, exit_facts: ExitFacts) -> tuple[Cause, str]:
    if exit_facts.timed_out:
        return Cause.EVALUATION_TIMED_OUT, "the evaluation did not end before its deadline and left no report"
    if exit_facts.out_of_memory:
        return Cause.EVALUATION_OUT_OF_MEMORY, "the tests of the patched code ran out of memory"
    if report is not None:
        return Cause.VERDICT_FORGED, "the report was not written by the grader"
    return (
        Cause.EVALUATION_RAISED,
        f"the grader was ended (exit status {exit_facts.exit_code}) before it wrote its report",
    )


def _judge_rounds(plan: Plan, report: GraderReport, exit_facts: ExitFacts) -> Judgement:
    tests: dict[str, TestResult] = {}
    categories = {test.id: test.category for test in plan.expected}
    trouble: _Suspect | None = None
    for number, part in enumerate(plan.rounds):
        seen = report.rounds[number] if number < len(report.rounds) else RoundReport(exit_code=None)
        ids = part.select if part.kind == "tests" else ()
        if part.kind == "discovery":
            continue
        if part.kind == "probes" and any(test.status != "pass" for test in tests.values()):
            continue  # unresolved whatever the probes say
        try:
            cases = _trusted_cases(part, seen, exit_facts)
            if part.kind == "probes":
                _check_probes(part, cases)
            tests |= {name: _from_case(part, name, categories[name], cases) for name in ids}
            _check_complete(part, ids, cases)
        except _Suspect as suspect:
            trouble = trouble if trouble and trouble.cause is Cause.VERDICT_FORGED else suspect
            tests |= {name: _result(name, categories[name], None, suspect.detail) for name in ids if name not in tests}
    if trouble is not None and trouble.cause is Cause.VERDICT_FORGED:
        return unresolved(categories.items(), trouble.cause, trouble.detail)
    ordered = tuple(tests[test.id] for test in plan.expected)
    solved = bool(ordered) and trouble is None and all(test.status == "pass" for test in ordered)
    return Judgement(
        verdict="resolved" if solved else "unresolved",
        tests=ordered,
        cause=trouble.cause if trouble else None,
        detail=trouble.detail if trouble else None,
    )


def discovered(plan: Plan, report: bytes | None) -> tuple[str, ...]:
    """Ids of all tests that the hidden files hold, as the plan's round of kind ``discovery`` found them."""
    found = _authentic(plan, report)
    ids: list[str] = []
    for part, seen in zip(plan.rounds, found.rounds if found else (), strict=False):
        if part.kind != "discovery":
            continue
        try:
            cases = _trusted_cases(part, seen, ExitFacts(exit_code=0))
        except _Suspect:
            continue
        for file in part.files:
            module = _key(f"{part.folder}/{file}")[1]
            for owner, name in cases:
                if owner == module or owner.startswith(module + "."):
                    ids.append("::".join(filter(None, (file, *owner[len(module) + 1 :].split("."), name))))
    return tuple(ids)


def _trusted_cases(part: Round, seen: RoundReport, exit_facts: ExitFacts) -> dict[tuple[str, str], _Case]:
    """All test cases of a round, once process status, report and canaries agree with each other."""
    where = ", ".join(part.files)
    if seen.timed_out:
        raise _Suspect(Cause.EVALUATION_TIMED_OUT, f"{where}: the tests did not end in time")
    if seen.exit_code == 0:
        detail = f"{where}: the test process ended with status 0, though it holds tests that must fail"
        raise _Suspect(Cause.VERDICT_FORGED, detail)
    if seen.exit_code != _TESTS_FAILED:
        if exit_facts.out_of_memory:
            raise _Suspect(Cause.EVALUATION_OUT_OF_MEMORY, f"{where}: the tests ran out of memory")
        detail = f"{where}: the test process ended with {_status(seen.exit_code)}{_if_full(seen)}"
        raise _Suspect(Cause.EVALUATION_RAISED, detail)
    if seen.junit is None:
        why = seen.junit_problem or "nothing there"
        detail = f"{where}: the test process ended without a report ({why}){_if_full(seen)}"
        raise _Suspect(Cause.EVALUATION_RAISED, detail)
    cases = _parse(seen.junit, where)
    _check_canaries(part, cases, where)
    return cases


def _if_full(seen: RoundReport) -> str:
    return "; they had filled their sandbox's disk (a larger one: disk_mib, --disk)" if seen.disk_full else ""


def _status(exit_code: int | None) -> str:
    if exit_code is None:
        return "no status"
    return f"signal {-exit_code}" if exit_code < 0 else f"status {exit_code}"


def _check_canaries(part: Round, cases: Mapping[tuple[str, str], _Case], where: str) -> None:
    for names, status in ((part.must_fail, "fail"), (part.must_pass, "pass")):
        for name in names:
            case = cases.get(_key(f"{part.canary_file}::{name}"))
            if case is None or case.status != status:
                detail = f"{where}: a test that must {status} did not: the patched code tampered with the test run"
                raise _Suspect(Cause.VERDICT_FORGED, detail)
    allowed = {_key(f"{part.canary_file}::{name}") for name in (*part.must_fail, *part.must_pass)}
    chosen = {_key(f"{part.folder}/{test}") for test in part.select}
    if part.kind == "discovery":
        return
    for (owner, name), case in cases.items():
        known = (owner, name) in allowed or (owner, name) in chosen or (owner, name.partition("[")[0]) in chosen
        if not known and (case.status == "pass" or not _is_collection(part, owner, name)):
            raise _Suspect(
                Cause.VERDICT_FORGED, f"{where}: the report names a test that was not asked for: {name[:200]}"
            )


def _check_probes(part: Round, cases: Mapping[tuple[str, str], _Case]) -> None:
    for test in part.select:
        owner, name = _key(f"{part.folder}/{test}")
        found = [case for (at, key), case in cases.items() if at == owner and key.partition("[")[0] == name]
        if any(case.status == "pass" for case in found):
            detail = f"{test} passed although its expected value was replaced by a random one"
            raise _Suspect(Cause.VERDICT_FORGED, detail)
        if not found:
            raise _Suspect(Cause.EVALUATION_RAISED, f"{test} ran once but not again with another expected value")


def _check_complete(part: Round, ids: Iterable[str], cases: Mapping[tuple[str, str], _Case]) -> None:
    absent = [test for test in ids if _key(f"{part.folder}/{test}") not in cases]
    if absent:
        reason = _collection_error(part, cases) or "pytest did not find it"
        detail = f"{len(absent)} expected tests did not run, first {absent[0]}: {reason}"
        raise _Suspect(Cause.EVALUATION_RAISED, detail[:MESSAGE_CHARS])


def _from_case(part: Round, name: str, category: str, cases: Mapping[tuple[str, str], _Case]) -> TestResult:
    case = cases.get(_key(f"{part.folder}/{name}"))
    return _result(name, category, case, f"did not run: {_collection_error(part, cases) or 'pytest did not find it'}")


def _result(name: str, category: str, case: _Case | None, absent: str) -> TestResult:
    return TestResult(
        name=name,
        category=msgspec.convert(category, Literal["default", "pass_to_pass", "fail_to_pass"]),
        status=case.status if case else "fail",
        duration_s=case.duration_s if case else None,
        message=case.message if case else absent[:MESSAGE_CHARS],
    )


def _key(test_id: str) -> tuple[str, str]:
    """Class name and name that pytest writes for an id. Source: ``mangle_test_address`` of pytest's junitxml."""
    address, bracket, parameters = test_id.partition("[")
    path, *names = address.split("::")
    names = [path.replace("/", ".").removesuffix(".py"), *names]
    return ".".join(names[:-1]), names[-1] + bracket + parameters


def _is_collection(part: Round, owner: str, name: str) -> bool:
    """Whether a case is pytest's way to say that a file or class could not be collected."""
    modules = [_key(f"{part.folder}/{file}")[1] for file in part.files]
    whole = f"{owner}.{name}" if owner else name
    return "[" not in name and any(whole == module or whole.startswith(module + ".") for module in modules)


def _collection_error(part: Round, cases: Mapping[tuple[str, str], _Case]) -> str | None:
    """Why a file or class could not be collected (it raised, or skipped itself)."""
    asked = {_key(f"{part.folder}/{test}") for test in part.select}
    for (owner, name), case in cases.items():
        if case.status != "pass" and (owner, name) not in asked and _is_collection(part, owner, name):
            return case.message
    return None


def _parse(junit: str, where: str) -> dict[tuple[str, str], _Case]:
    try:
        root = fromstring(junit, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise _Suspect(Cause.VERDICT_FORGED, f"{where}: the tests' report is no JUnit XML: {error}") from error
    cases: dict[tuple[str, str], _Case] = {}
    for element in root.iter("testcase"):
        key = (element.get("classname") or "", element.get("name") or "")
        case = _case(element)
        cases[key] = _worse(cases[key], case) if key in cases else case
    return cases


def _case(element: Element) -> _Case:
    status: Status = "pass"
    trouble = None
    for child in element:
        if child.tag in ("failure", "error"):
            status, trouble = "fail", child
            break
        if child.tag == "skipped":
            status, trouble = "skip", child
    message = None
    if trouble is not None:
        message = "\n".join(filter(None, (trouble.get("message"), trouble.text)))[:MESSAGE_CHARS]
    return _Case(status=status, duration_s=_seconds(element), message=message)


def _seconds(element: Element) -> float | None:
    try:
        seconds = float(element.get("time") or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e6 else None


def _worse(first: _Case, second: _Case) -> _Case:
    """A test may be reported twice (failed, then its teardown too): the worse report counts."""
    order = {"pass": 0, "skip": 1, "fail": 2}
    return second if order[second.status] > order[first.status] else first
