"""TCP on the sandbox's loopback to the Unix socket of the run's proxy: byte for byte, both ways, half-close kept."""

from __future__ import annotations

import _socket  # socket loads enum and selectors for 5 ms
import errno
import time

from ridges.sandbox_manager.inside.poller import GONE, READ, WRITE, Poller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONNECTIONS = 400
CHUNK = 65536
"""Read at once of one side, and then nothing more until the other has taken it."""
CONNECT_PATIENCE_S = 5.0
_REFUSAL = b'{"detail":"The sandbox proxy of this run does not answer."}'
UNREACHABLE = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_REFUSAL), _REFUSAL)
)


class Forwarder:
    """Serves from the moment it is made until ``close``, driven by the poller."""

    def __init__(self, poller: Poller, socket_path: str, port: int, *, buffer_bytes: int = 0) -> None:
        """``buffer_bytes``: of each side of a connection, ours and (twice that) the kernel's; 0 = as much as helps."""
        self._poller = poller
        self._buffer_bytes = buffer_bytes
        self._path = socket_path
        self._connections: set[_Connection] = set()
        self._waiting: list[tuple[_Connection, float]] = []
        self._listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        self._listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if buffer_bytes:  # those it accepts inherit this; on a loopback one segment could fill a small buffer
            self._listener.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_MAXSEG, buffer_bytes // 2)
            _hold_little(self._listener, buffer_bytes)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        poller.watch(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Drop every connection."""
        self._poller.forget(self._listener.fileno())
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    @property
    def next_retry_s(self) -> float | None:
        """How soon ``retry`` should be called; None = no need."""
        return 0.02 if self._waiting else None

    def retry(self) -> None:
        """Connect those whose upstream had a full backlog: no event says when it has room."""
        waiting, self._waiting = self._waiting, []
        for connection, give_up_at in waiting:
            self._connect(connection, give_up_at)

    def _accept(self, _mask: int) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # of socket.py
        except OSError:
            return
        client = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fd)
        client.setblocking(False)
        client.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        connection = _Connection(self._poller, client, self._ended, self._buffer_bytes or CHUNK)
        self._connections.add(connection)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._poller.change(self._listener.fileno(), 0)
        self._connect(connection, time.monotonic() + CONNECT_PATIENCE_S)

    def _connect(self, connection: _Connection, give_up_at: float) -> None:
        upstream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        if self._buffer_bytes:
            _hold_little(upstream, self._buffer_bytes)
        try:
            upstream.connect(self._path)
        except OSError as error:
            upstream.close()
            if error.errno == errno.EAGAIN and time.monotonic() < give_up_at:
                self._waiting.append((connection, give_up_at))
            else:
                connection.refuse()
            return
        connection.join(upstream)

    def _ended(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if self._listener.fileno() >= 0:
            self._poller.change(self._listener.fileno(), READ)


def _hold_little(sock: _socket.socket, buffer_bytes: int) -> None:
    for buffer in (_socket.SO_RCVBUF, _socket.SO_SNDBUF):
        sock.setsockopt(_socket.SOL_SOCKET, buffer, buffer_bytes)


class _Side:
    """One socket, and what waits to be written to it."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.pending = bytearray()
        self.read_all = False
        self.write_closed = False

    def end_writing(self) -> None:
        if not self.write_closed:
            self.write_closed = True
            try:
                self.sock.shutdown(_socket.SHUT_WR)
            except OSError:
                pass  # the peer was faster


class _Connection:
    """A client and its upstream."""

    def __init__(
        self, poller: Poller, client: _socket.socket, ended: Callable[[_Connection], None], chunk: int
    ) -> None:
        self._poller = poller
        self._chunk = chunk
        self._ended = ended
        self._client = _Side(client)
        self._sides = [self._client]

    def join(self, upstream: _socket.socket) -> None:
        """Begin to relay."""
        client, server = self._client, _Side(upstream)
        self._sides.append(server)
        self._poller.watch(client.fd, READ, lambda mask: self._on_event(client, server, mask))
        self._poller.watch(server.fd, READ, lambda mask: self._on_event(server, client, mask))

    def refuse(self) -> None:
        """Tell the client that there is no upstream."""
        try:
            self._client.sock.send(UNREACHABLE)
        except OSError:
            pass
        self._client.end_writing()
        self.close()

    def close(self) -> None:
        """Drop both sides."""
        for side in self._sides:
            self._poller.forget(side.fd)
            side.sock.close()
        self._sides = []
        self._ended(self)

    def _on_event(self, side: _Side, other: _Side, mask: int) -> None:
        if mask & WRITE:
            self._flush(side, other)
        if mask & (READ | GONE):
            self._read(side, other, drain=bool(mask & GONE))
        if mask & GONE and side.read_all:
            self._poller.forget(side.fd)  # hang-ups are reported again and again
            side.pending.clear()
            side.end_writing()
        if side.write_closed and other.write_closed:
            self.close()
            return
        self._poller.change(side.fd, self._mask(side, other))
        self._poller.change(other.fd, self._mask(other, side))

    def _read(self, source: _Side, target: _Side, drain: bool) -> None:
        """One chunk; of a peer that is gone, the rest: no more than a socket buffer holds."""
        while not source.read_all:
            try:
                chunk = source.sock.recv(self._chunk)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            source.read_all = not chunk
            if not target.write_closed:
                target.pending += chunk
            if not drain:
                break
        self._flush(target, source)

    def _flush(self, side: _Side, source: _Side) -> None:
        if side.pending and not side.write_closed:
            try:
                del side.pending[: side.sock.send(side.pending)]
            except BlockingIOError:
                return
            except OSError:
                side.pending.clear()
                side.write_closed = True
        if source.read_all and not side.pending:
            side.end_writing()

    @staticmethod
    def _mask(side: _Side, other: _Side) -> int:
        """Read only while the other side has room, so that a slow reader slows its writer."""
        wants = 0
        if not side.read_all and not other.pending:
            wants |= READ
        if side.pending:
            wants |= WRITE
        return wants
