"""What a damaged log still holds beyond its archive, read from nats-server's own files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ridges.chassis.jetstream.block_files import block_files, bytes_behind, stored_events
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
            known_as = event_id or f"{position} {subject!r} {content!r}"  # nobody knows what it is: kept, once
            if known_as in self._seen:
                continue
            self._seen.add(known_as)
            self.events.append(ArchivedEvent(subject=subject.decode(), event_id=event_id, content=content))
        if (rest := bytes_behind(blocks[-1])) > 0:
            self._warn_of_rest(folder, rest, expected)
        self._known_to = max(self._known_to, expected - 1)

    def _warn_of_rest(self, folder: Path, rest: int, position: int) -> None:
        if position > self._known_to:
            detail = (
                f"the files in {folder} end with {rest:,} bytes that are no whole event: one that was being written "
                "when nats-server was killed (nobody was told that it is stored), or a damaged one"
            )
            self.findings.append(Finding(kind="tail", severity="warning", detail=detail, position=position))

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
