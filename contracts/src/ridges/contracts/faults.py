"""One table: what can end a run, whose fault it is, whether to try again, who pays, and the public code.

Source: public codes 1000..3040 of the public Ridges system; only 1xxx count against an agent.
"""

from enum import StrEnum
from types import MappingProxyType

import msgspec


class Fault(StrEnum):
    """Who is at fault."""

    AGENT = "agent"
    PROVIDER = "provider"
    EVALUATOR = "evaluator"
    PLATFORM = "platform"
    USER = "user"


class Cause(StrEnum):
    """Why a run did not end with a plain verdict (or why its patch is partial)."""

    AGENT_RAISED = "agent_raised"
    AGENT_EXITED = "agent_exited"
    AGENT_NOT_LOADABLE = "agent_not_loadable"
    AGENT_RETURNED_NO_PATCH = "agent_returned_no_patch"
    AGENT_OUTPUT_UNSAFE = "agent_output_unsafe"
    AGENT_TIMED_OUT = "agent_timed_out"
    AGENT_OUT_OF_MEMORY = "agent_out_of_memory"
    PATCH_EMPTY = "patch_empty"
    PATCH_INVALID = "patch_invalid"
    PATCH_DOES_NOT_APPLY = "patch_does_not_apply"
    EVALUATION_RAISED = "evaluation_raised"
    EVALUATION_TIMED_OUT = "evaluation_timed_out"
    EVALUATION_OUT_OF_MEMORY = "evaluation_out_of_memory"
    VERDICT_FORGED = "verdict_forged"
    BUDGET_SPENT = "budget_spent"
    PROVIDER_FAILED = "provider_failed"
    PROBLEM_UNKNOWN = "problem_unknown"
    PROBLEM_BROKEN = "problem_broken"
    EVALUATOR_FAILED = "evaluator_failed"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    SANDBOX_FAILED = "sandbox_failed"
    IMAGE_MISSING = "image_missing"
    LIMITS_REFUSED = "limits_refused"
    PLATFORM_FAILED = "platform_failed"
    LOST_WHILE_PENDING = "lost_while_pending"
    LOST_WHILE_INITIALIZING_AGENT = "lost_while_initializing_agent"
    LOST_WHILE_RUNNING_AGENT = "lost_while_running_agent"
    LOST_WHILE_INITIALIZING_EVALUATION = "lost_while_initializing_evaluation"
    LOST_WHILE_RUNNING_EVALUATION = "lost_while_running_evaluation"
    CANCELLED = "cancelled"


class Rule(msgspec.Struct, frozen=True):
    """What follows from a cause."""

    fault: Fault
    retry: bool
    """Would the same run, started again, have a fair chance?"""
    charged: bool
    """Does the owner of the agent pay for the model calls of the run?"""
    code: int | None
    """Code of the public Ridges system, where it has one."""
    meaning: str


_A, _P, _E = Fault.AGENT, Fault.PLATFORM, Fault.EVALUATOR

RULES = MappingProxyType(
    {
        Cause.AGENT_RAISED: Rule(_A, False, True, 1000, "the agent raised an exception"),
        Cause.AGENT_EXITED: Rule(_A, False, True, 1000, "the agent's process ended without returning a patch"),
        Cause.AGENT_NOT_LOADABLE: Rule(_A, False, True, 1000, "the agent file raised while it was imported"),
        Cause.AGENT_RETURNED_NO_PATCH: Rule(_A, False, True, 1000, "agent_main returned something that is no patch"),
        Cause.AGENT_OUTPUT_UNSAFE: Rule(_A, False, True, 1000, "the agent replaced its output file by something else"),
        Cause.AGENT_TIMED_OUT: Rule(_A, False, True, 1020, "the agent did not return before its timeout"),
        Cause.AGENT_OUT_OF_MEMORY: Rule(_A, False, True, 1000, "the agent used more memory than its limit"),
        Cause.PATCH_EMPTY: Rule(_A, False, True, 1040, "the agent returned an empty patch"),
        Cause.PATCH_INVALID: Rule(_A, False, True, 1040, "the patch is malformed or touches what it must not"),
        Cause.PATCH_DOES_NOT_APPLY: Rule(_A, False, True, 1040, "the patch does not apply to the repository"),
        Cause.EVALUATION_RAISED: Rule(_A, False, True, 1010, "the patched code broke the test run"),
        Cause.EVALUATION_TIMED_OUT: Rule(_A, False, True, 1030, "the tests of the patched code did not end in time"),
        Cause.EVALUATION_OUT_OF_MEMORY: Rule(_A, False, True, 1010, "the tests of the patched code ran out of memory"),
        Cause.VERDICT_FORGED: Rule(_A, False, True, 1010, "the patched code tampered with the test run"),
        Cause.BUDGET_SPENT: Rule(_A, False, True, None, "the run reached its cost limit"),
        Cause.PROVIDER_FAILED: Rule(Fault.PROVIDER, True, False, 2000, "no provider answered the model calls"),
        Cause.PROBLEM_UNKNOWN: Rule(Fault.USER, False, False, 2060, "no such problem is published"),
        Cause.PROBLEM_BROKEN: Rule(_E, False, False, 2050, "the problem itself is broken"),
        Cause.EVALUATOR_FAILED: Rule(_E, True, False, 2040, "the evaluator failed"),
        Cause.SANDBOX_UNAVAILABLE: Rule(_P, True, False, 2010, "no sandbox could be started on this machine"),
        Cause.SANDBOX_FAILED: Rule(_P, True, False, 2020, "the sandbox broke while it ran"),
        Cause.IMAGE_MISSING: Rule(_P, True, False, 2010, "the sandbox image is not on this machine"),
        Cause.LIMITS_REFUSED: Rule(
            Fault.USER, False, False, None, "the run asks for more than the operator of the machine allows"
        ),
        Cause.PLATFORM_FAILED: Rule(_P, True, False, 2000, "an internal error"),
        Cause.LOST_WHILE_PENDING: Rule(_P, True, False, 3000, "the platform restarted while the run was pending"),
        Cause.LOST_WHILE_INITIALIZING_AGENT: Rule(_P, True, False, 3010, "the platform restarted before the agent ran"),
        Cause.LOST_WHILE_RUNNING_AGENT: Rule(_P, True, False, 3020, "the platform restarted while the agent ran"),
        Cause.LOST_WHILE_INITIALIZING_EVALUATION: Rule(
            _P, True, False, 3030, "the platform restarted before the evaluation ran"
        ),
        Cause.LOST_WHILE_RUNNING_EVALUATION: Rule(
            _P, True, False, 3040, "the platform restarted while the evaluation ran"
        ),
        Cause.CANCELLED: Rule(Fault.USER, False, True, None, "a user cancelled the run"),
    }
)


def counts_against_agent(cause: Cause) -> bool:
    """Whether a run that ended so is a failure of its agent (verdict ``unresolved``) and not a void run."""
    return RULES[cause].fault is Fault.AGENT
