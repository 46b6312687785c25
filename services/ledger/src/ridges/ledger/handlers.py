"""Carries out requests: decides, stores the agent file, appends. Asking again is answered with the same run."""

from collections.abc import Awaitable, Callable

import msgspec
import structlog

from ridges.chassis.ports import NEW, BlobMissing, BlobStore, Clock, EventStore, Recorded, WrongPosition
from ridges.contracts.events import ProblemPublished, RunRequested
from ridges.contracts.lifecycle import Run, evolve
from ridges.contracts.requests import CancelRun, RequestRun
from ridges.contracts.subjects import problem_stream_id
from ridges.ledger import domain
from ridges.ledger.errors import RequestRefused, UnknownRun

log = structlog.get_logger(__name__)


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The log holds what was asked for."""

    run_id: str
    position: int
    """Where; views that contain it contain the effect of the request."""


class RunRequests:
    """What users may ask of runs."""

    def __init__(
        self,
        *,
        store: EventStore,
        blobs: BlobStore,
        clock: Clock,
        find_problem: Callable[[str], ProblemPublished | None],
        examine_agent: Callable[[bytes], Awaitable[str | None]],
        new_run_id: Callable[[], str],
    ) -> None:
        self._store, self._blobs, self._clock = store, blobs, clock
        self._find_problem, self._examine_agent, self._new_run_id = find_problem, examine_agent, new_run_id

    async def request_run(self, request: RequestRun, *, idempotency_key: str | None = None) -> Accepted:
        """Append RunRequested, once for each run id (given, or derived from the key).

        Raises:
            RequestRefused: with the reason to show to the user.
            EventStoreUnavailable: ask again with the same run id or key.

        """
        run_id, repeatable = self._run_id(request, idempotency_key)
        content = domain.agent_bytes_of(request)
        if content is None:
            content = await self._uploaded_agent(request)
        if repeatable:
            stored = await self._requested(run_id)
            if stored is not None:
                return _same_run(stored, request, content)
        event = domain.decide_run(
            request,
            run_id=run_id,
            problem=await self._problem(request.problem),
            agent=content,
            agent_problem=await self._examine_agent(content),
            now=self._clock.now(),
            idempotency_key=idempotency_key,
        )
        await self._blobs.put(content, domain.AGENT_MEDIA_TYPE)
        try:
            position = await self._store.append(run_id, [event], NEW)
        except WrongPosition:
            stored = await self._requested(run_id)
            if stored is None:
                raise
            return _same_run(stored, request, content)
        log.info("run requested", run_id=run_id, problem=event.problem_id, agent=event.agent.digest, position=position)
        return Accepted(run_id=run_id, position=position)

    async def cancel_run(self, request: CancelRun) -> Accepted:
        """Append RunCancelled unless the run has ended already.

        Raises:
            RequestRefused: the id is no UUID.
            UnknownRun: no such run.
            EventStoreUnavailable: ask again.

        """
        run_id = domain.canonical_run_id(request.run_id)
        history = await self._store.read_run(run_id)
        run: Run | None = None
        for recorded in history:
            run = evolve(run, recorded.event)
        if run is None:
            raise UnknownRun(run_id)
        if run.ended:
            return Accepted(run_id=run_id, position=history[-1].position)
        event = domain.decide_cancel(request, run_id=run_id, now=self._clock.now())
        position = await self._store.append(run_id, [event])
        log.info("run cancelled", run_id=run_id, reason=event.reason, position=position)
        return Accepted(run_id=run_id, position=position)

    def _run_id(self, request: RequestRun, idempotency_key: str | None) -> tuple[str, bool]:
        if request.run_id is not None:
            return domain.canonical_run_id(request.run_id), True
        if idempotency_key is not None:
            return domain.run_id_for(idempotency_key), True
        return self._new_run_id(), False

    async def _uploaded_agent(self, request: RequestRun) -> bytes:
        assert request.agent is not None
        try:
            return await self._blobs.get(request.agent.digest)
        except BlobMissing as error:
            reason = f"no uploaded agent {request.agent.digest}: upload it with POST /v1/blobs first ({error})"
            raise RequestRefused(reason, status=422) from error

    async def _problem(self, problem_id: str) -> ProblemPublished:
        """The newest edition; asks the log where the projection does not have the problem (yet)."""
        problem = self._find_problem(problem_id)
        if problem is None and domain.PROBLEM_ID.fullmatch(problem_id):
            for recorded in await self._store.read_run(problem_stream_id(problem_id)):
                if isinstance(recorded.event, ProblemPublished):
                    problem = recorded.event
        if problem is None:
            raise domain.unknown_problem(problem_id)
        return problem

    async def _requested(self, run_id: str) -> Recorded | None:
        for recorded in await self._store.read_run(run_id):
            if isinstance(recorded.event, RunRequested):
                return recorded
        return None


def _same_run(stored: Recorded, request: RequestRun, content: bytes) -> Accepted:
    assert isinstance(stored.event, RunRequested)
    domain.refuse_other_request(stored.event, request, domain.agent_ref(content))
    return Accepted(run_id=stored.event.run_id, position=stored.position)
