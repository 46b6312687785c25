"""What a damaged log still holds beyond its archive, read from nats-server's own files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ridges.chassis.jetstream.block_files import block_files, stored_events
from ridges.contracts.views import Finding
from ridges.ledger.archive import ArchivedEvent
from ridges.ledger.passes.check import event_id_of
from ridges.ledger.passes.reporting import PassFailed


class Salvage:
    """The events of some folders that the archive lacks, in the order of the log; what is in none is named."""

    def __init__(self, folders: Sequence[Path], archived_ids: Iterable[str], archived_last: int) -> None:
        """``folders``: of one log, the oldest copy first. What came to a later one alone stands behind.

        Raises:
            PassFailed: a folder has no blocks.
        """
        self.events: list[ArchivedEvent] = []
        self.findings: list[Finding] = []
        self._seen, self._known_to = set(archived_ids), archived_last
        for folder in folders:
            self._add(folder)

    def _add(self, folder: Path) -> None:
        blocks = block_files(folder)
        if not blocks:
            raise PassFailed(f"{folder} has no files of the stream EVENTS (EVENTS/msgs/1.blk …); name its folder")
        expected = 1
        for raw in stored_events(blocks):
            position, subject, _, content = raw
            if position > expected:
                self._miss(expected, position - 1)
            expected = max(expected, position + 1)
            event_id = event_id_of(raw)
            if event_id in self._seen:
                continue
            self._seen.add(event_id)
            self.events.append(ArchivedEvent(subject=subject.decode(), event_id=event_id, content=content))
        self._known_to = max(self._known_to, expected - 1)

    def _miss(self, first: int, last: int) -> None:
        first = max(first, self._known_to + 1)
        if first > last:
            return
        self.findings.append(
            Finding(
                kind="lost",
                severity="error",
                detail=f"the events at positions {first} to {last} of the damaged log are neither in the archive nor "
                "readable in its files; what follows moves up. `ridges ledger verify` names the runs that miss them",
                position=first,
            )
        )
