"""The newest of the log for the manager, while the command runs. What does not fit is left out, never waited for."""

from __future__ import annotations

import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ridges.sandbox_manager.inside.outbox import Outbox

EVERY_S = 0.5
MOST = 16384
"""Bytes told at once; of what came since the last time only the end is told when it is more."""


class LiveLog:
    """Tells through an outbox, when that is idle."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._seen = 0
        self._new = bytearray()
        self._next_at = time.monotonic() + EVERY_S

    def add(self, chunk: bytes) -> None:
        """The command wrote this."""
        self._seen += len(chunk)
        self._new += chunk[-MOST:]
        if len(self._new) > MOST:
            del self._new[:-MOST]

    @property
    def due_in_s(self) -> float | None:
        """When ``tell`` has something to do; None = not before the command writes and the manager reads."""
        if not self._new or not self._outbox.idle:
            return None
        return max(0.0, self._next_at - time.monotonic())

    def tell(self) -> None:
        """Tell what is new, if it is time and the manager reads."""
        if self.due_in_s != 0.0:
            return
        self._next_at = time.monotonic() + EVERY_S
        offset = self._seen - len(self._new)
        self._outbox.put(b"L", struct.pack(">Q", offset) + self._new)
        self._new.clear()
