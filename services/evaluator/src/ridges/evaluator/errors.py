"""Errors of the evaluator. Each message says what is wrong and what to do next."""

from ridges.contracts.faults import Cause


class EvaluatorError(Exception):
    """Root of the evaluator's own errors."""


class ProblemBroken(EvaluatorError):
    """A problem folder (or a stored edition of it) cannot be used. The author mends it; nothing else helps."""

    def __init__(self, problem_id: str, reasons: tuple[str, ...]) -> None:
        super().__init__(f"problem {problem_id}: {'; '.join(reasons)}")
        self.problem_id, self.reasons = problem_id, reasons


class ProblemUnknown(EvaluatorError):
    """No problem of that id is in the configured folders."""

    def __init__(self, problem_id: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known) or "none; set RIDGES_PROBLEMS_DIRS to the folder that holds the problem folders"
        super().__init__(f"no problem {problem_id!r} here; known: {names}")
        self.problem_id = problem_id


class PatchRefused(EvaluatorError):
    """The patch must not (or cannot) be applied. The agent's fault."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause, self.detail = cause, detail


class EvaluationLost(EvaluatorError):
    """The evaluation ended without a verdict, and it is not the agent's fault."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause, self.detail = cause, detail
