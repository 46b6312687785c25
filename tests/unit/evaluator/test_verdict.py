"""From reports to verdicts, with reports written by hand."""

import msgspec
import pytest
from grading import CREATE, FIX, problem_of

from ridges.contracts.events import ExitFacts
from ridges.contracts.faults import Cause
from ridges.evaluator.bundle import make_bundle, make_plan, plan_of
from ridges.evaluator.domain import GraderReport, Plan, Round, RoundReport
from ridges.evaluator.errors import EvaluationLost
from ridges.evaluator.verdict import judge

FACTS = ExitFacts(exit_code=0)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(problem_of(FIX), None, 60)


def case(folder: str, test_id: str, inner: str = "") -> str:
    address, bracket, parameters = test_id.partition("[")
    file, *names = address.split("::")
    owner = ".".join([(folder + "/" + file).replace("/", ".").removesuffix(".py"), *names[:-1]]).lstrip(".")
    return f'<testcase classname="{owner}" name="{names[-1]}{bracket}{parameters}" time="0.25">{inner}</testcase>'


FAILED = '<failure message="AssertionError">where</failure>'


def honest(part: Round, wrong: tuple[str, ...] = (), leave_out: tuple[str, ...] = (), more: str = "") -> RoundReport:
    """What pytest writes for a solution that passes all tests but the wrong ones."""
    canaries, _, canary_file = part.canary_file.rpartition("/")
    cases = [case(canaries, f"{canary_file}::{name}", FAILED) for name in part.must_fail]
    cases += [case(canaries, f"{canary_file}::{name}") for name in part.must_pass]
    for test in part.select:
        if test not in leave_out:
            cases.append(case(part.folder, test, FAILED if part.kind == "probes" or test in wrong else ""))
    junit = f"<testsuites><testsuite>{''.join(cases)}{more}</testsuite></testsuites>"
    return RoundReport(exit_code=1, junit=junit, duration_s=1.0)


def report(plan: Plan, *rounds: RoundReport, **changes) -> bytes:
    fields = {"nonce": plan.nonce, "applied": True, "rounds": rounds or tuple(map(honest, plan.rounds))} | changes
    return msgspec.json.encode(GraderReport(**fields))


def with_first(plan: Plan, first: RoundReport) -> bytes:
    return report(plan, first, *map(honest, plan.rounds[1:]))


def test_all_pass(plan):
    judgement = judge(plan, report(plan), FACTS)
    assert (judgement.verdict, judgement.cause) == ("resolved", None)
    assert [(t.name, t.category, t.status, t.duration_s) for t in judgement.tests] == [
        (t.id, t.category, "pass", 0.25) for t in plan.expected
    ]


def test_one_fails(plan):
    judgement = judge(plan, with_first(plan, honest(plan.rounds[0], wrong=(plan.rounds[0].select[0],))), FACTS)
    assert (judgement.verdict, judgement.cause) == ("unresolved", None)
    assert [t.status for t in judgement.tests].count("fail") == 1
    assert judgement.tests[0].message == "AssertionError\nwhere"


def test_a_skipped_test_is_not_passed(plan):
    first = plan.rounds[0]
    skipped = honest(
        first, leave_out=first.select[:1], more=case(first.folder, first.select[0], '<skipped message="no"/>')
    )
    judgement = judge(plan, with_first(plan, skipped), FACTS)
    assert (judgement.verdict, judgement.tests[0].status) == ("unresolved", "skip")


def test_the_worse_of_two_reports_of_a_test_counts(plan):
    """Pytest reports a test twice when its teardown fails too; a forger might add a pass."""
    first = plan.rounds[0]
    twice = honest(first, wrong=first.select[:1], more=case(first.folder, first.select[0]))
    assert judge(plan, with_first(plan, twice), FACTS).tests[0].status == "fail"


def forged_first(change):
    return lambda plan: with_first(plan, change(plan.rounds[0]))


def passing_probes(plan: Plan) -> bytes:
    """Of the last round, all probes pass."""
    last = honest(msgspec.structs.replace(plan.rounds[-1], kind="tests"))
    return report(plan, *map(honest, plan.rounds[:-1]), last)


def without_canary(part: Round) -> RoundReport:
    return honest(msgspec.structs.replace(part, must_fail=part.must_fail[1:]))


def passing_canary(part: Round) -> RoundReport:
    return honest(
        msgspec.structs.replace(part, must_fail=part.must_fail[1:], must_pass=(*part.must_pass, part.must_fail[0]))
    )


def failing_canary(part: Round) -> RoundReport:
    return honest(
        msgspec.structs.replace(part, must_pass=part.must_pass[1:], must_fail=(*part.must_fail, part.must_pass[0]))
    )


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><testsuites><testsuite name="&b;"/></testsuites>'


@pytest.mark.parametrize(
    ("content", "cause", "says"),
    [
        (lambda _: None, Cause.EVALUATION_RAISED, "before it wrote its report"),
        (lambda _: b"", Cause.VERDICT_FORGED, "not written by the grader"),
        (lambda _: b"\xff{}", Cause.VERDICT_FORGED, "not written by the grader"),
        (lambda plan: report(plan, nonce="0" * 64), Cause.VERDICT_FORGED, "not written by the grader"),
        (lambda plan: report(plan, nonce=""), Cause.VERDICT_FORGED, "not written by the grader"),
        (lambda plan: report(plan, applied=False, apply_message="error: no"), Cause.PATCH_DOES_NOT_APPLY, "error: no"),
        (forged_first(lambda _: RoundReport(exit_code=0)), Cause.VERDICT_FORGED, "status 0"),
        (forged_first(lambda _: RoundReport(exit_code=-11)), Cause.EVALUATION_RAISED, "signal 11"),
        (forged_first(lambda _: RoundReport(exit_code=2)), Cause.EVALUATION_RAISED, "status 2"),
        (forged_first(lambda _: RoundReport(exit_code=1, junit_problem="gone")), Cause.EVALUATION_RAISED, "gone"),
        (forged_first(lambda _: RoundReport(exit_code=None, timed_out=True)), Cause.EVALUATION_TIMED_OUT, "in time"),
        (forged_first(lambda _: RoundReport(exit_code=1, junit="<a>")), Cause.VERDICT_FORGED, "no JUnit XML"),
        (forged_first(lambda _: RoundReport(exit_code=1, junit=LAUGHS)), Cause.VERDICT_FORGED, "no JUnit XML"),
        (forged_first(lambda _: RoundReport(exit_code=1, junit="<testsuites/>")), Cause.VERDICT_FORGED, "must fail"),
        (forged_first(without_canary), Cause.VERDICT_FORGED, "must fail"),
        (forged_first(passing_canary), Cause.VERDICT_FORGED, "must fail"),
        (forged_first(failing_canary), Cause.VERDICT_FORGED, "must pass"),
        (forged_first(lambda part: honest(part, leave_out=part.select[:1])), Cause.EVALUATION_RAISED, "did not run"),
        (
            forged_first(lambda part: honest(part, more=case("x", "test_y.py::test_z"))),
            Cause.VERDICT_FORGED,
            "not asked for: test_z",
        ),
        (lambda plan: report(plan, *map(honest, plan.rounds[:1])), Cause.EVALUATION_RAISED, "no status"),
        (passing_probes, Cause.VERDICT_FORGED, "replaced by a random one"),
    ],
)
def test_what_cannot_be_trusted_resolves_nothing(plan, content, cause, says):
    judgement = judge(plan, content(plan), FACTS)
    assert (judgement.verdict, judgement.cause) == ("unresolved", cause)
    assert says in judgement.detail
    assert any(test.status != "pass" for test in judgement.tests) or plan.rounds[-1].kind == "probes"
    assert [test.name for test in judgement.tests] == [test.id for test in plan.expected]


def test_a_module_that_cannot_be_imported_says_why(plan):
    first = plan.rounds[0]
    module = f"{first.folder}.{first.files[0].removesuffix('.py')}"
    error = (
        f'<testcase classname="" name="{module}"><error message="collection failure">ImportError: x</error></testcase>'
    )
    judgement = judge(plan, with_first(plan, honest(first, leave_out=first.select, more=error)), FACTS)
    assert judgement.cause is Cause.EVALUATION_RAISED
    assert "ImportError: x" in judgement.detail
    assert "ImportError: x" in judgement.tests[0].message


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (ExitFacts(exit_code=None, timed_out=True), Cause.EVALUATION_TIMED_OUT),
        (ExitFacts(exit_code=-9, out_of_memory=True), Cause.EVALUATION_OUT_OF_MEMORY),
        (ExitFacts(exit_code=-9), Cause.EVALUATION_RAISED),
    ],
)
def test_no_report_at_all(plan, facts, cause):
    assert judge(plan, None, facts).cause is cause


def test_out_of_memory_in_the_test_process(plan):
    content = with_first(plan, RoundReport(exit_code=-9))
    judgement = judge(plan, content, ExitFacts(exit_code=0, out_of_memory=True))
    assert judgement.cause is Cause.EVALUATION_OUT_OF_MEMORY


def test_a_grader_that_cannot_start_is_our_fault(plan):
    with pytest.raises(EvaluationLost, match="git is not installed") as lost:
        judge(plan, report(plan, applied=False, error="GraderFailed: git is not installed"), FACTS)
    assert lost.value.cause is Cause.EVALUATOR_FAILED


def test_put_back_paths_are_flagged(plan):
    changed = msgspec.structs.replace(plan, flagged=("conftest.py",))
    judgement = judge(changed, report(changed, put_back=("json.py", "conftest.py")), FACTS)
    assert judgement.flagged == ("conftest.py", "json.py")


def test_a_forged_run_counts_no_test(plan):
    judgement = judge(plan, forged_first(passing_canary)(plan), FACTS)
    assert {test.status for test in judgement.tests} == {"fail"}


def test_probes_say_nothing_when_a_test_failed(plan):
    first = plan.rounds[0]
    rounds = [honest(first, wrong=first.select[:1]), *map(honest, plan.rounds[1:-1]), RoundReport(exit_code=0)]
    judgement = judge(plan, report(plan, *rounds), FACTS)
    assert (judgement.verdict, judgement.cause) == ("unresolved", None)


def test_the_bundle_carries_its_plan_and_every_plan_is_new():
    problem = problem_of(CREATE)
    first, second = (make_plan(problem, None, 60) for _ in range(2))
    assert plan_of(make_bundle(problem, None, first)) == first
    assert first.nonce != second.nonce
    assert not {first.rounds[0].folder, *first.rounds[0].must_fail} & {
        second.rounds[0].folder,
        *second.rounds[0].must_fail,
    }
