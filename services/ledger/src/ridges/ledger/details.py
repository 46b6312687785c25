"""What a run left: its full view with the patch, its logs, its events."""

from collections.abc import Iterable

import structlog

from ridges.chassis.ports import BlobMissing, BlobStore, EventStore
from ridges.contracts import events as ev
from ridges.contracts.views import EventRow, RunDetail
from ridges.ledger.errors import UnknownRun
from ridges.ledger.projections.runs import RunRecord
from ridges.ledger.queries import Queries, run_detail

log = structlog.get_logger(__name__)


class NothingStored(UnknownRun):
    """The run has no such file (yet)."""

    def __init__(self, run_id: str, what: str, state: str) -> None:
        Exception.__init__(self, f"run {run_id} has no {what} (state: {state})")
        self.run_id = run_id


class RunDetails:
    """Reads of one run that need more than the tables."""

    def __init__(self, *, queries: Queries, store: EventStore, blobs: BlobStore) -> None:
        self._queries, self._store, self._blobs = queries, store, blobs

    async def detail(self, run_id: str) -> RunDetail:
        """The full view. The patch is null when there is none or its blob is gone (``patch_digest`` tells which).

        Raises:
            UnknownRun: no such run.

        """
        record = self._record(run_id)
        patch: str | None = None
        if record.patch_digest is not None:
            try:
                patch = (await self._blobs.get(record.patch_digest)).decode("utf-8", "replace")
            except BlobMissing as error:
                log.warning("a patch is missing", run_id=run_id, error=str(error))
        return run_detail(record, patch)

    async def patch(self, run_id: str, attempt: int | None = None) -> bytes:
        """The patch as the agent gave it, or that of one attempt: of a lost attempt the last state, if it was kept.

        Raises:
            NothingStored: the run has none.
            BlobMissing: it had one.
            EventStoreUnavailable: an attempt is named, and the log does not answer.

        """
        record = self._record(run_id)
        if attempt is None:
            return await self._content(record, record.patch_digest, "patch")
        return await self._content(record, _patch_digest(await self._log_of(run_id), attempt), _of("patch", attempt))

    async def agent_log(self, run_id: str, attempt: int | None = None) -> bytes:
        """What the agent printed in its latest attempt, or in that one: of a lost attempt the end, if it was kept.

        Raises like ``patch``; ``EventStoreUnavailable`` besides, when an attempt is named.
        """
        record = self._record(run_id)
        if attempt is None:
            return await self._content(record, record.log_digest, "log")
        return await self._content(record, _log_digest(await self._log_of(run_id), attempt), _of("log", attempt))

    async def evaluation_log(self, run_id: str) -> bytes:
        """What the hidden tests printed. Raises like ``patch``."""
        record = self._record(run_id)
        return await self._content(record, record.evaluation_log_digest, "evaluation log")

    async def events(self, run_id: str) -> list[EventRow]:
        """Every event of the run, out of the log itself."""
        return [
            EventRow(position=recorded.position, event=recorded.event)
            for recorded in await self._store.read_run(run_id)
        ]

    async def _log_of(self, run_id: str) -> list[ev.AnyEvent]:
        return [recorded.event for recorded in await self._store.read_run(run_id)]

    def _record(self, run_id: str) -> RunRecord:
        record = self._queries.record(run_id)
        if record is None:
            raise UnknownRun(run_id)
        return record

    async def _content(self, record: RunRecord, digest: str | None, what: str) -> bytes:
        if digest is None:
            raise NothingStored(record.run_id, what, record.state)
        return await self._blobs.get(digest)


def _log_digest(events: Iterable[ev.AnyEvent], attempt: int) -> str | None:
    """Of the attempt's log, which its own end names, or the start of the next one when it was lost."""
    for event in events:
        if isinstance(event, ev.PatchProduced | ev.AgentFailed) and event.attempt == attempt and event.log:
            return event.log.digest
        if isinstance(event, ev.AgentStarted) and event.attempt == attempt + 1 and event.previous_log:
            return event.previous_log.digest
    return None


def _patch_digest(events: Iterable[ev.AnyEvent], attempt: int) -> str | None:
    """Of the attempt's patch, judged or not; of a lost one the start of the next attempt names it."""
    for event in events:
        if isinstance(event, ev.PatchProduced) and event.attempt == attempt:
            return event.patch.digest
        if isinstance(event, ev.AgentFailed) and event.attempt == attempt and event.unjudged_patch:
            return event.unjudged_patch.digest
        if isinstance(event, ev.AgentStarted) and event.attempt == attempt + 1 and event.previous_patch:
            return event.previous_patch.digest
    return None


def _of(what: str, attempt: int) -> str:
    return f"{what} of attempt {attempt}"
