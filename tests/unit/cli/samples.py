"""Views of runs for tests of the command line."""

from datetime import UTC, datetime, timedelta

from ridges.contracts.faults import RULES
from ridges.contracts.lifecycle import RunState
from ridges.contracts.limits import RunLimits
from ridges.contracts.usage import TokenUsage
from ridges.contracts.views import RunDetail

REQUESTED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def run_detail(**changes):
    """A run; ``changes`` are fields of RunDetail."""
    cause = changes.get("cause")
    fields = {
        "run_id": "0190a1b2-0000-4000-8000-000000000001",
        "problem": "fix-a-thing",
        "agent": "sha256:" + "ab" * 32,
        "agent_name": "agent.py",
        "batch_id": None,
        "state": RunState.RUNNING_AGENT,
        "verdict": None,
        "cause": cause,
        "fault": RULES[cause].fault if cause else None,
        "code": RULES[cause].code if cause else None,
        "attempt": 1,
        "partial": False,
        "sandbox": "bubblewrap",
        "requests": 2,
        "usage": TokenUsage(input=1000, output=20),
        "cost_nano_usd": 275_000,
        "cost_usd": "0.000275",
        "reserved_nano_usd": 0,
        "tests_passed": 0,
        "tests_total": 0,
        "requested_at": REQUESTED_AT,
        "started_at": REQUESTED_AT + timedelta(seconds=1),
        "finished_at": REQUESTED_AT + timedelta(seconds=13.5),
        "position": 9,
        "detail": None,
        "model": None,
        "limits": RunLimits(),
        "requests_failed": 0,
        "requests_refused": 0,
        "tests": (),
        "patch": None,
        "patch_digest": None,
        "log_digest": None,
        "evaluation_log_digest": None,
        "exit": None,
        "flagged": (),
        "mended": (),
    }
    return RunDetail(**(fields | changes))
