"""PID 1 of a run's relay: from TCP on the loopback, which it shares with the run's sandbox, to the socket of its proxy.

Said once on stdout: that it listens. The end of stdin means that the manager is gone, or needs it no more.
"""

from __future__ import annotations

import os
import sys

from ridges.sandbox_manager.inside.forwarder import Forwarder
from ridges.sandbox_manager.inside.poller import READ, Poller

BUFFER_BYTES = 32768
"""With ``MAX_CONNECTIONS`` of them some 100 MiB at the very most: below its memory limit, whatever the sandbox does."""


def main() -> None:
    """Serves the port and socket of its arguments until its stdin ends."""
    socket_path, port = sys.argv[2], int(sys.argv[3])
    poller = Poller()
    forwarder = Forwarder(poller, socket_path, port, buffer_bytes=BUFFER_BYTES)
    said: list[bytes] = []
    poller.watch(0, READ, lambda _: said.append(os.read(0, 1)))
    os.write(1, b"L")
    while b"" not in said:
        poller.poll(forwarder.next_retry_s)
        forwarder.retry()
