"""From delivered events to handlers. Here errors become facts: a run that cannot be evaluated ends saying so."""

import structlog

from ridges.chassis.ports import BlobMissing, EventStoreUnavailable, Recorded
from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.subjects import PROBLEM_STREAM_PREFIX
from ridges.evaluator.errors import EvaluationLost, EvaluatorError, ProblemBroken
from ridges.evaluator.handlers import Evaluations, evaluation_id_of

log = structlog.get_logger(__name__)

PATCHES_QUEUE = "evaluator-patches"
EXITS_QUEUE = "evaluator-exits"
TRIES = 4
"""For an error that nobody foresaw."""


class Subscribers:
    """One method per queue."""

    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations = evaluations
        self._failures: dict[str, int] = {}

    async def on_patch_produced(self, recorded: Recorded) -> None:
        event = recorded.event
        assert isinstance(event, ev.PatchProduced)
        try:
            await self._evaluations.request_evaluation(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must end truthfully
            await self._end(event, evaluation_id_of(event), error)
        else:
            self._failures.pop(event.id, None)

    async def on_sandbox_exited(self, recorded: Recorded) -> None:
        event = recorded.event
        assert isinstance(event, ev.EvaluationSandboxExited)
        if event.run_id.startswith(PROBLEM_STREAM_PREFIX):
            return  # the check of a problem collects its own
        try:
            await self._evaluations.judge_evaluation(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must end truthfully
            await self._end(event, event.evaluation_id, error)
        else:
            self._failures.pop(event.id, None)

    async def _end(self, event: ev.Event, evaluation_id: str, error: Exception) -> None:
        """End the evaluation for a reason that trying again does not mend; raise what it may mend."""
        if isinstance(error, EventStoreUnavailable | OSError):
            raise error
        if not isinstance(error, EvaluatorError | BlobMissing):
            self._failures[event.id] = self._failures.get(event.id, 0) + 1
            if self._failures[event.id] < TRIES:
                raise error
        self._failures.pop(event.id, None)
        log.error("evaluation given up", run_id=event.run_id, error=str(error), exc_info=error)
        await self._evaluations.give_up(event, evaluation_id, *reason_of(error))


def reason_of(error: Exception) -> tuple[Cause, str]:
    """Cause and detail of an EvaluationFailed."""
    if isinstance(error, EvaluationLost):
        return error.cause, error.detail
    if isinstance(error, ProblemBroken):
        return Cause.PROBLEM_BROKEN, f"{error}; mend it, then `ridges problem check {error.problem_id}`"
    if isinstance(error, BlobMissing):
        return Cause.EVALUATOR_FAILED, f"{error}; do all services use the same RIDGES_BLOBS_URL?"
    return Cause.EVALUATOR_FAILED, f"{type(error).__name__}: {error}; the evaluator's log has the traceback"
