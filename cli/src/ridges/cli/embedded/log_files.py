"""nats-server's files of the embedded system's log: a copy from before it starts, and the way on when they are damaged.

nats-server cuts off whole events behind a damaged one when it finds it, at a start or while reading.
"""

import contextlib
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ridges.chassis.jetstream.block_files import block_files, whole_event_after
from ridges.chassis.jetstream.fence import refusal
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError
from ridges.contracts.subjects import EVENTS_STREAM

COPIED_BYTES = 256 * 1024**2
"""A longer log is not copied at a start; archive it often."""
TAIL_BYTES = 64
RESTORE = "`ridges ledger restore --into-new`"


class _StreamFile(msgspec.Struct):
    """nats-server's ``meta.inf``."""

    metadata: dict[str, str] = {}


class LogFiles:
    """The blocks of the stream EVENTS in ``.ridges/nats``."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self.live = state.nats / "jetstream" / "$G" / "streams" / EVENTS_STREAM
        self._copy = state.path / "log-before-start"
        self.kept = state.path / "log-before-damage"
        """The copy, once nats-server has cut off what it holds."""
        self._restoring = state.path / "restoring"
        """Names the folder of a restore that has not ended."""

    def copy(self) -> None:
        """Before each start of nats-server. None is made where the log is long or the disk is full."""
        if self._first_cut() is not None:
            return
        self.drop_copy()
        blocks = block_files(self.live)
        size = sum(block.stat().st_size for block in blocks)
        if not blocks or size > COPIED_BYTES or shutil.disk_usage(self._state.path).free < 4 * size:
            return
        target = self._copy / EVENTS_STREAM / "msgs"
        try:
            target.mkdir(parents=True)
            for block in blocks:
                shutil.copyfile(block, target / block.name)
        except OSError:
            self.drop_copy()

    def drop_copy(self) -> None:
        """It has done its work."""
        shutil.rmtree(self._copy, ignore_errors=True)

    def refuse_damaged(self) -> None:
        """Raises CliError when nats-server has cut off events, or a restore has not ended."""
        if self._restoring.exists():
            raise CliError(f"a restore of the log was interrupted; run {RESTORE} again: it goes on where it stopped")
        if self.kept.exists():
            raise CliError(
                f"nats-server has cut off events of its damaged log in {self.live}; the copy from before is in "
                f"{self.kept}. To go on: {RESTORE}"
            )

    def refuse_cut(self) -> None:
        """Raises CliError when nats-server has cut off whole events since the copy was made, and keeps the copy."""
        cut = self._first_cut()
        if cut is not None:
            live, position = cut
            self._copy.rename(self.kept)
            os.sync()
            raise CliError(
                f"nats-server found damage in its log and cut off whole events, the first at position {position} "
                f"({live}; see {self._state.logs / 'nats.log'}). The copy from before is in {self.kept}. "
                f"To go on: {RESTORE}"
            )

    def move_away(self) -> list[Path]:
        """The folders with what there was of the log, the oldest copy first; the next start begins a new stream.

        Again after an interruption: those of that time.

        Raises:
            CliError: the log has moved to another store.
        """
        if self._restoring.exists():
            away = self._state.path / self._restoring.read_text("utf-8")
        else:
            self._refuse_moved()
            away = self._state.path / f"log-damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}"
            away.mkdir(mode=0o700, exist_ok=True)
            self._restoring.write_text(away.name, "utf-8")
        before, log = away / "before", away / EVENTS_STREAM
        for place, target in ((self.kept, before), (self.live, log)):
            if place.exists() and not target.exists():
                place.rename(target)
        self.drop_copy()
        return [folder for folder in (before, log) if block_files(folder)]

    def restored(self) -> None:
        """The new log is whole: its tables are made anew, too."""
        for tables in (self._state.path / "ledger").glob("projections.sqlite*"):
            tables.unlink()
        self._restoring.unlink()

    def _first_cut(self) -> tuple[Path, int] | None:
        """A block that lacks whole events of its copy, and the position of the first one."""
        for copied in block_files(self._copy):
            live = self.live / "msgs" / copied.name
            with contextlib.suppress(OSError):  # a disk that cannot be read stops nats-server, which says so
                if _begins_with(live, copied):
                    continue
                same = _same_bytes(live, copied)
                lost = whole_event_after(copied, same)
                if lost is not None:
                    return live, lost[0]
                os.truncate(copied, same)  # a record that a crash had torn: nobody was told that it is stored
        return None

    def _refuse_moved(self) -> None:
        try:
            told = msgspec.json.decode((self.live / "meta.inf").read_bytes(), type=_StreamFile)
        except (OSError, msgspec.MsgspecError):  # damaged, too
            return
        if (gone := refusal(told.metadata, str(self.live))) is not None:
            raise CliError(f"{gone}. There is nothing to restore here")


def _begins_with(live: Path, copied: Path) -> bool:
    """Whether a block still has its end of before: it only grows."""
    size = copied.stat().st_size
    return _tail(live, size) == _tail(copied, size)


def _tail(block: Path, size: int) -> bytes:
    with block.open("rb") as file:
        file.seek(max(size - TAIL_BYTES, 0))
        return file.read(min(size, TAIL_BYTES))


def _same_bytes(live: Path, copied: Path) -> int:
    """How many bytes at the beginning are the same."""
    one, other = memoryview(live.read_bytes()), memoryview(copied.read_bytes())
    same, different = 0, min(len(one), len(other)) + 1
    while different - same > 1:
        middle = (same + different) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            different = middle
    return same
