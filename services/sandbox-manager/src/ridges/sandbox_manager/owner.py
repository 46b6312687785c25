"""Marks that tell which manager process a leftover belonged to, and whether that process still lives."""

import os
import re
from pathlib import Path

import msgspec

_MARK = re.compile(r"ridges-(\d+)-(\d+)-([0-9A-Za-z-]{1,64})")


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox and the manager process that started it. A pid alone would be reused."""

    pid: int
    started_ticks: int
    """Clock ticks after boot."""
    sandbox_id: str

    @classmethod
    def own(cls, sandbox_id: str) -> "Mark":
        """The mark of this process."""
        return cls(pid=os.getpid(), started_ticks=_started_ticks(os.getpid()) or 0, sandbox_id=sandbox_id)

    @classmethod
    def read(cls, text: str) -> "Mark | None":
        """The mark in a name; None = the name is not ours."""
        found = _MARK.fullmatch(text)
        return found and cls(pid=int(found[1]), started_ticks=int(found[2]), sandbox_id=found[3])

    def __str__(self) -> str:
        return f"ridges-{self.pid}-{self.started_ticks}-{self.sandbox_id}"

    def is_leftover(self, live: set[str]) -> bool:
        """Its manager is dead, or it is ours and not live."""
        if self.pid == os.getpid() and self.started_ticks == _started_ticks(self.pid):
            return self.sandbox_id not in live
        return _started_ticks(self.pid) != self.started_ticks


def _started_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
