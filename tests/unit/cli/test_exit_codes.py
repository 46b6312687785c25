"""Which exit code tells how a run ended: one table over all causes."""

import pytest
from unit.cli.samples import run_detail

from ridges.cli.errors import CliError, Exit, UsageError
from ridges.cli.run_command import exit_code
from ridges.contracts.faults import RULES, Cause, Fault
from ridges.contracts.lifecycle import RunState

OURS = {Fault.PLATFORM, Fault.EVALUATOR, Fault.PROVIDER}


def test_the_codes_are_the_promised_ones():
    assert {code.name: int(code) for code in Exit} == {
        "RESOLVED": 0,
        "NOT_RESOLVED": 1,
        "USAGE": 2,
        "OUR_FAULT": 3,
        "BUDGET_SPENT": 4,
        "INTERRUPTED": 130,
    }
    assert CliError("x").exit_code is Exit.OUR_FAULT
    assert UsageError("x").exit_code is Exit.USAGE


ENDS = [
    ("resolved", RunState.FINISHED, "resolved", None, False, 0),
    ("resolved although the budget was spent on the way", RunState.FINISHED, "resolved", None, True, 0),
    ("unresolved", RunState.FINISHED, "unresolved", None, False, 1),
    ("unresolved because the budget was spent", RunState.FINISHED, "unresolved", None, True, 4),
    ("unresolved with a partial patch", RunState.FINISHED, "unresolved", Cause.AGENT_TIMED_OUT, False, 1),
    ("the agent gave up when its budget was spent", RunState.ERROR, "unresolved", Cause.AGENT_RAISED, True, 4),
    ("the platform failed after the budget was spent", RunState.ERROR, None, Cause.SANDBOX_FAILED, True, 3),
]


@pytest.mark.parametrize(
    ("state", "verdict", "cause", "spent", "code"), [row[1:] for row in ENDS], ids=[r[0] for r in ENDS]
)
def test_ends(state, verdict, cause, spent, code):
    assert exit_code(run_detail(state=state, verdict=verdict, cause=cause), out_of_budget=spent) == code


@pytest.mark.parametrize("cause", Cause)
def test_only_what_is_our_fault_is_told_as_ours(cause):
    """Budget spent has a code of its own; what a user or an agent did is a run that was not resolved."""
    verdict = "unresolved" if RULES[cause].fault is Fault.AGENT else None
    ended = run_detail(state=RunState.ERROR, verdict=verdict, cause=cause)
    expected = 4 if cause is Cause.BUDGET_SPENT else 3 if RULES[cause].fault in OURS else 1
    assert exit_code(ended, out_of_budget=False) == expected
