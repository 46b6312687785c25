"""Makes the replay part of an archive segment: events by run; what is finished within the segment is added up."""

from collections.abc import Iterable

import msgspec

from ridges.contracts import codec
from ridges.contracts import events as ev
from ridges.contracts.lifecycle import ENDED, RunState
from ridges.ledger.projections.costs import Calls, is_estimate
from ridges.ledger.projections.fold import Fold, Sheet
from ridges.ledger.projections.slim import (
    FinishedCalls,
    ReplayItem,
    RunReplay,
    SlimCell,
    SlimReserved,
    Whole,
    WholeRun,
    slim,
)

_decoder = msgspec.msgpack.Decoder(list[RunReplay])


def replay_part(events: Iterable[tuple[int, str, bytes]]) -> bytes:
    """From position, stream id and content of each event of a segment."""
    streams: dict[str, _Stream] = {}
    for position, stream_id, content in events:
        stream = streams.get(stream_id)
        if stream is None:
            stream = streams[stream_id] = _Stream(position)
        stream.add(position, content)
    return msgspec.msgpack.encode(
        [
            RunReplay(run_id=stream_id, first_position=stream.first, last_position=stream.last, items=stream.finished())
            for stream_id, stream in streams.items()
        ]
    )


def read_replay_part(content: bytes) -> list[RunReplay]:
    """What ``replay_part`` made."""
    return _decoder.decode(content)


class _Stream:
    """One stream's items; what was reserved and finished since the last other event is held back to be added up."""

    def __init__(self, first: int) -> None:
        self.items: list[ReplayItem] = []
        self._fold: Fold | None = Fold(Sheet)
        """All of the stream so far; None once that cannot be a whole run."""
        self.first = self.last = first
        self._reserved: dict[str, SlimReserved] = {}
        self._outcomes: list[ev.InferenceMade | ev.InferenceFailed] = []
        self._finished: set[str] = set()

    def add(self, position: int, content: bytes) -> None:
        self.last = position
        try:
            event = codec.decode(content)
        except codec.UndecodableEvent:
            self._whole(position, content)
            self._fold = None
            return
        if position == self.first and not isinstance(event, ev.RunRequested):
            self._fold = None
        if self._fold is not None:
            self._fold.fold(position, event)
        match event:
            case ev.InferenceReserved() if event.call_id not in self._reserved and event.call_id not in self._finished:
                reserved = slim(event)
                assert isinstance(reserved, SlimReserved)
                self._reserved[event.call_id] = reserved
            case ev.InferenceMade() | ev.InferenceFailed() if self._finishes(event):
                del self._reserved[event.call_id]
                self._finished.add(event.call_id)
                self._outcomes.append(event)
            case _:
                short = slim(event)
                if short is None:
                    self._whole(position, content)
                else:
                    self._flush()
                    self.items.append(short)

    def _finishes(self, event: ev.InferenceMade | ev.InferenceFailed) -> bool:
        """Whether the call was reserved here and is closed for good, as an estimate is not."""
        return event.call_id in self._reserved and not is_estimate(event)

    def finished(self) -> list[ReplayItem]:
        """What stands for the stream."""
        self._flush()
        whole = None if self._fold is None else _whole_run(self._fold)
        return self.items if whole is None else [whole]

    def _whole(self, position: int, content: bytes) -> None:
        self._flush()
        self.items.append(Whole(position=position, content=content))

    def _flush(self) -> None:
        if self._outcomes:
            self.items.append(_added_up(self._outcomes))
            self._outcomes = []
            self._finished = set()
        self.items += self._reserved.values()
        self._reserved = {}


def _whole_run(fold: Fold) -> WholeRun | None:
    """None for a run that goes on, or has calls without an outcome."""
    [sheet] = fold.dirty.values()
    calls, record = sheet.calls, sheet.record
    assert record is not None
    if RunState(record.state) not in ENDED or calls.open:
        return None
    return WholeRun(
        record=list(msgspec.structs.astuple(record)),
        call_ids=calls.newly_closed,
        cells=[(key, tuple(cell.sums), cell.usages.tobytes()) for key, cell in calls.cells.items()],
    )


def _added_up(outcomes: list[ev.InferenceMade | ev.InferenceFailed]) -> FinishedCalls:
    calls = Calls()
    amounts = [0] * 5
    answered = 0
    for outcome in outcomes:
        made = isinstance(outcome, ev.InferenceMade)
        answered += made
        change = calls.finish(outcome, 0, answered=made)
        assert change is not None
        usage = outcome.usage
        for place, amount in enumerate(
            (usage.input, usage.cached_input, usage.output, usage.reasoning, outcome.cost_nano_usd)
        ):
            amounts[place] += amount
    fresh, cached, output, reasoning, cost = amounts
    return FinishedCalls(
        call_ids=calls.newly_closed,
        answered=answered,
        failed=len(outcomes) - answered,
        amounts=(fresh, cached, output, reasoning, cost),
        cells=[
            SlimCell(key=key[1:], sums=tuple(cell.sums), usages=cell.usages.tobytes())
            for key, cell in calls.cells.items()
        ],
    )
