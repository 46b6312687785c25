"""Prove that the log is whole: no gap, every event readable, each run in order, every amount adds up."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef
from ridges.contracts.codec import UndecodableEvent, decode
from ridges.contracts.events import type_name
from ridges.contracts.subjects import EVENT_ID_HEADER, event_subject
from ridges.contracts.usage import TokenUsage, cost_nano_usd
from ridges.contracts.views import Finding
from ridges.ledger.errors import INTO_NEW
from ridges.ledger.passes.reporting import Pace

FINDINGS_KEPT = 1_000
_MARK = EVENT_ID_HEADER.encode() + b":"
_ENDING = (ev.TestsFinished, ev.EvaluationFailed, ev.AgentFailed, ev.RunCancelled)
_CALL = (ev.InferenceMade, ev.InferenceFailed)
_EVALUATION = (ev.EvaluationStarted, ev.EvaluationSandboxExited, ev.TestsFinished)


class _Run:
    """What the check remembers of a run."""

    __slots__ = ("attempt", "closed", "ended_at", "evaluated", "open", "requested")

    def __init__(self) -> None:
        self.requested = self.evaluated = False
        self.attempt = 0
        self.ended_at: datetime | None = None
        self.open: dict[str, tuple[int, str, datetime]] = {}
        self.closed: set[str] = set()


class LogCheck:
    """Reads the log once and collects what is wrong."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.dropped = 0
        """Findings beyond those that are kept."""
        self.blobs: dict[str, int] = {}
        """Digest -> position of the first event that names it."""
        self.call_contents: dict[str, int] = {}
        """The same of what model calls sent and got, which no promise covers."""
        self.position = 0
        self._runs: dict[str, _Run] = {}
        self._ids: set[int] = set()
        self._newest: datetime | None = None

    def read(self, chunks: Iterable[list[RawEvent]], pace: Pace) -> None:
        """Check everything in the chunks."""
        for chunk in pace.over(chunks):
            for raw in chunk:
                self._check(raw)

    def close(self, grace_s: float) -> None:
        """After the last event: reservations of ended runs that nobody closed within the grace time."""
        for run_id, run in self._runs.items():
            if run.ended_at is None or self._newest is None:
                continue
            for call_id, (position, event_id, at) in run.open.items():
                if self._newest - max(at, run.ended_at) > timedelta(seconds=grace_s):
                    self._find(
                        "open reservation",
                        "warning",
                        f"call {call_id} was reserved and never closed, though its run has ended; "
                        "is the ledger's settler running?",
                        position,
                        event_id,
                        run_id,
                    )

    def _check(self, raw: RawEvent) -> None:
        position, subject, headers, content = raw
        if position != self.position + 1:
            self._find(
                "gap",
                "error",
                f"positions {self.position + 1} to {position - 1} are missing. To get the log whole again from its "
                f"archive: {INTO_NEW}",
                position,
            )
        self.position = position
        named = subject.decode(errors="replace")
        try:
            event = decode(content)
        except UndecodableEvent as error:
            self._find("unreadable", "error", f"the event on {named} cannot be read: {error}", position)
            return
        if named != event_subject(event.run_id, type_name(event)):
            self._event("subject", "error", f"it stands on the subject {named}", position, event)
        told_id = _id_in(headers)
        if told_id is not None and told_id != event.id:
            self._event("event id", "error", f"its header has the id {told_id}", position, event)
        self._check_id(position, event)
        self._newest = event.time
        named_blobs = self.call_contents if isinstance(event, _CALL) else self.blobs
        for ref in _refs(event):
            named_blobs.setdefault(ref.digest, position)
        if not isinstance(event, ev.ProblemPublished | ev.PriceListPublished):
            self._check_run(position, event)

    def _check_id(self, position: int, event: ev.AnyEvent) -> None:
        short = hash(event.id)
        if short in self._ids:
            self._event("event id", "error", "an event with this id stands in the log before it", position, event)
        self._ids.add(short)

    def _check_run(self, position: int, event: ev.AnyEvent) -> None:
        run = self._runs.get(event.run_id)
        if run is None:
            run = self._runs[event.run_id] = _Run()
        for kind, what in _order(run, event):
            self._event(kind, "error", what, position, event)
        match event:
            case ev.RunRequested():
                run.requested = True
            case ev.AgentStarted():
                run.attempt = max(run.attempt, event.attempt)
            case ev.EvaluationRequested():
                run.evaluated = True
            case ev.InferenceReserved() if event.call_id not in run.closed:
                run.open[event.call_id] = (position, event.id, event.time)
            case ev.InferenceMade() | ev.InferenceFailed() | ev.InferenceSettled():
                run.open.pop(event.call_id, None)
                run.closed.add(event.call_id)
        if isinstance(event, _ENDING) and run.ended_at is None:
            run.ended_at = event.time

    def _event(self, kind: str, severity: Any, what: str, position: int, event: ev.AnyEvent) -> None:
        detail = f"{type_name(event)} of run {event.run_id}: {what}"
        self._find(kind, severity, detail, position, event.id, event.run_id)

    def _find(
        self,
        kind: str,
        severity: Any,
        detail: str,
        position: int | None = None,
        event_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        if len(self.findings) >= FINDINGS_KEPT:
            self.dropped += 1
            return
        self.findings.append(
            Finding(kind=kind, severity=severity, detail=detail, position=position, event_id=event_id, run_id=run_id)
        )


def _order(run: _Run, event: ev.AnyEvent) -> Iterator[tuple[str, str]]:
    """What the event breaks of its run's order."""
    if isinstance(event, ev.RunRequested):
        if run.requested:
            yield "order", "the run was requested before"
        return
    if not run.requested and not isinstance(event, ev.InferenceRefused):
        yield "order", "its run was not requested before it"
    match event:
        case ev.AgentStarted() if event.attempt <= run.attempt:
            yield "order", f"attempt {event.attempt} starts after attempt {run.attempt}"
        case ev.PatchProduced() | ev.AgentFailed() if event.attempt > run.attempt:
            yield "order", f"attempt {event.attempt} ends but did not start"
        case ev.InferenceMade() | ev.InferenceFailed():
            if event.call_id not in run.open and event.call_id not in run.closed and not _is_release(event):
                yield "order", f"call {event.call_id} was not reserved before it"
            yield from _amounts(event)
        case ev.InferenceSettled() if event.call_id not in run.open and event.call_id not in run.closed:
            yield "order", f"call {event.call_id} was not reserved before it"
    if isinstance(event, _EVALUATION) and not run.evaluated:
        yield "order", "no evaluation was requested before it"


def _is_release(event: ev.InferenceMade | ev.InferenceFailed) -> bool:
    """Of a reservation whose append was not answered: it may never have been stored, or come after its release."""
    return isinstance(event, ev.InferenceFailed) and not event.attempts and event.cost_nano_usd == 0


def _amounts(event: ev.InferenceMade | ev.InferenceFailed) -> Iterator[tuple[str, str]]:
    usage, cost = TokenUsage(), 0
    for number, attempt in enumerate(event.attempts, 1):
        usage, cost = usage + attempt.usage, cost + attempt.cost_nano_usd
        exact = cost_nano_usd(attempt.usage, attempt.price)
        if exact != attempt.cost_nano_usd:
            charged = f"attempt {number} of call {event.call_id} costs {attempt.cost_nano_usd} nano-USD"
            yield "amount", f"{charged}, its tokens at its prices {exact}"
    if (usage, cost) != (event.usage, event.cost_nano_usd):
        yield "amount", f"the attempts of call {event.call_id} do not add up to its usage and cost"


def _refs(value: Any) -> Iterator[BlobRef]:
    """Every blob the event names."""
    for name in value.__struct_fields__:
        field = getattr(value, name)
        if isinstance(field, BlobRef):
            yield field
        elif isinstance(field, tuple):
            for item in field:
                if isinstance(item, msgspec.Struct):
                    yield from _refs(item)


def event_id_of(raw: RawEvent) -> str:
    """From the header, else from the event itself; empty when it has none."""
    told = _id_in(raw[2])
    if told is not None:
        return told
    try:
        return decode(raw[3]).id
    except UndecodableEvent:
        return ""


def _id_in(headers: bytes) -> str | None:
    at = headers.find(_MARK)
    if at < 0:
        return None
    end = headers.find(b"\r\n", at)
    return headers[at + len(_MARK) : end].strip().decode(errors="replace")
