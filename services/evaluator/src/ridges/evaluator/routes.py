"""The evaluator's HTTP API: which problems there are, and whether they are any good."""

import contextlib
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta

from ridges.chassis.ports import BlobStore, Clock, EventStore, EventStoreUnavailable
from ridges.chassis.problems_http import error_response
from ridges.contracts.limits import SandboxLimits
from ridges.contracts.views import Problem9457, ProblemRow
from ridges.evaluator.check_runner import LogSandboxes
from ridges.evaluator.checks import CheckReport, broken_report, check_problem
from ridges.evaluator.domain import Problem
from ridges.evaluator.errors import ProblemBroken, ProblemUnknown
from ridges.evaluator.publisher import BrokenProblem, Publisher


class ProblemList(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the problem folders."""

    problems: tuple[ProblemRow, ...]
    broken: tuple[BrokenProblem, ...]


class CheckProblem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the check of a problem."""

    problem_id: str
    repeats: Annotated[int, Meta(ge=1, le=20)] = 3
    """How often the reference patch is graded."""


def problem_routes(
    publisher: Publisher, *, store: EventStore, blobs: BlobStore, clock: Clock, check_wait_s: float
) -> list[HTTPRouteHandler]:
    """The routes over the publisher's problems."""

    @get("/v1/problems", summary="Loaded and broken problems")
    async def problems() -> ProblemList:
        """Reads the folders anew; where the log or the blob store is away, as they were read last."""
        with contextlib.suppress(EventStoreUnavailable, OSError):
            await publisher.scan()
        return ProblemList(problems=tuple(map(_row, publisher.problems)), broken=publisher.broken)

    @post("/v1/checks", status_code=200, summary="Check a problem: reference, empty patch, repeats, hidden future")
    async def checks(data: CheckProblem) -> CheckReport:
        """Reads the folder anew, then runs ``repeats`` + 1 evaluations; answers when all of them have ended."""
        await publisher.scan()
        try:
            problem = publisher.find(data.problem_id)
        except ProblemBroken as broken:
            return broken_report(broken.problem_id, broken.reasons)
        sandboxes = LogSandboxes(
            store=store,
            blobs=blobs,
            clock=clock,
            wait_s=check_wait_s,
            limits=problem.sandbox or SandboxLimits(),
            image=problem.image,
        )
        return await check_problem(problem, sandboxes.run, data.repeats)

    return [problems, checks]


def on_unknown_problem(_request: Request[Any, Any, Any], error: ProblemUnknown) -> Response[Problem9457]:
    """404 that names the problems there are."""
    return error_response(404, "No such problem", str(error))


def on_log_unavailable(_request: Request[Any, Any, Any], error: EventStoreUnavailable) -> Response[Problem9457]:
    """503: try again."""
    return error_response(503, "Event log not available", str(error))


def _row(problem: Problem) -> ProblemRow:
    return ProblemRow(
        problem_id=problem.problem_id,
        kind=problem.kind,
        title=problem.title,
        problem_digest=problem.problem_digest,
        agent_timeout_s=problem.agent_timeout_s,
        evaluation_timeout_s=problem.evaluation_timeout_s,
    )
