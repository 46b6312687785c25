"""Frames for the manager while the command runs: what it does not read is kept, one frame, and never waited for."""

from __future__ import annotations

import os
import struct

from ridges.sandbox_manager.inside.poller import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ridges.sandbox_manager.inside.poller import Poller


class Outbox:
    """Writes to a descriptor that it makes non-blocking until ``finish``."""

    def __init__(self, fd: int, poller: Poller) -> None:
        self._fd = fd
        self._poller = poller
        self._unsent = memoryview(b"")
        os.set_blocking(fd, False)

    @property
    def idle(self) -> bool:
        """Whether the manager has the last frame."""
        return not self._unsent

    def put(self, kind: bytes, payload: bytes) -> None:
        """Send a frame; call when ``idle``. What does not fit goes on its way with the poller's turns."""
        self._unsent = memoryview(struct.pack(">cQ", kind, len(payload)) + payload)
        self._send()
        if self._unsent:
            self._poller.watch(self._fd, WRITE, lambda _: self._send())

    def finish(self) -> None:
        """A frame that was begun is completed; nothing more may be put."""
        os.set_blocking(self._fd, True)
        while self._unsent:
            self._send()

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
        except BlockingIOError:
            return
        if not self._unsent:
            self._poller.forget(self._fd)
