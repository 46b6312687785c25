"""The newest of the log for the manager, while the command runs. What does not fit is left out, never waited for."""

from __future__ import annotations

import os
import struct
import time

EVERY_S = 0.5
MOST = 16384
"""Bytes told at once; of what came since the last time only the end is told when it is more."""


class LiveLog:
    """Writes frames to a descriptor that it makes non-blocking until ``finish``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._seen = 0
        self._new = bytearray()
        self._unsent = b""
        self._next_at = time.monotonic() + EVERY_S
        os.set_blocking(fd, False)

    def add(self, chunk: bytes) -> None:
        """The command wrote this."""
        self._seen += len(chunk)
        self._new += chunk[-MOST:]
        if len(self._new) > MOST:
            del self._new[:-MOST]

    @property
    def due_in_s(self) -> float | None:
        """When ``tell`` has something to do; None = not before the command writes."""
        if not self._new and not self._unsent:
            return None
        return max(0.0, self._next_at - time.monotonic())

    def tell(self) -> None:
        """Tell what is new, if it is time and the manager reads."""
        if self.due_in_s != 0.0:
            return
        self._next_at = time.monotonic() + EVERY_S
        if not self._unsent:
            offset = self._seen - len(self._new)
            self._unsent = struct.pack(">cQQ", b"L", 8 + len(self._new), offset) + self._new
            self._new.clear()
        try:
            self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
        except BlockingIOError:
            pass

    def finish(self) -> None:
        """Nothing more will be told; a frame that was begun is completed."""
        os.set_blocking(self._fd, True)
        while self._unsent:
            self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
