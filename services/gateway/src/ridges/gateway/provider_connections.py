"""HTTP/1.1 to one provider: connections that are kept, and answers that come piece by piece in callbacks.

A piece costs one callback, no task is woken for it (ADR 35). Parsed by httptools, which reads HTTP for uvicorn too.
"""

import asyncio
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httptools
from aiohappyeyeballs import start_connection

Sink = Callable[[bytes], None]

KEEPALIVE_S = 4.0
"""An idle connection is used again for so long: uvicorn and Node close theirs after five seconds, and a request that
meets the close is lost, for no request is sent twice."""
ADDRESSES_KEPT_S = 10.0
SECOND_FAMILY_AFTER_S = 0.25
"""Source: RFC 8305, recommended connection attempt delay."""
LARGEST_HEAD = 64 * 1024
LAST_BYTES_S = 1.0
"""After the last event of a stream its connection may take so long to say that it was the last."""
COPIED = 64 * 1024
"""A body up to this size is joined to its head."""
INFLATED_AT_ONCE = 1024 * 1024
COMPRESSED = frozenset({"gzip", "deflate"})
"""Codings that are read though none is asked for: some servers compress all the same."""
GZIP_OR_ZLIB = 47
"""Source: zlib, window bits with the kind found out by its header."""


class ConnectFailed(OSError):
    """No connection."""


class AnswerBroken(OSError):
    """The connection broke, or what came is no HTTP."""


class AnswerTooLarge(OSError):
    """More than may be read."""


class Silence(Exception):
    """Nothing came for longer than it may."""


class Exchange:
    """One request and its answer. ``leave`` it, whatever happened."""

    status = 0
    headers: Mapping[str, str]

    def __init__(self, connection: "_Connection") -> None:
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[None] = loop.create_future()
        """Done when status and headers are known. Raises AnswerBroken."""
        self.over: asyncio.Future[None] = loop.create_future()
        """Done with the answer's last byte. Raises AnswerBroken, Silence or what a sink raised."""
        self.ended = False
        """Nothing more comes. The futures may also be cancelled by who waits for them."""
        self._connection, self._loop = connection, loop
        self.inflate: Any = None
        """A decompressor where the answer is compressed."""
        self._early: list[bytes] = []
        self._sink: Sink | None = None
        self._idle_s, self._last_at, self._paused = 0.0, 0.0, False
        self._timer: asyncio.TimerHandle | None = None

    def flow(self, sink: Sink) -> "asyncio.Future[None]":
        """Give every piece to the sink as it comes, what is here at once. What the sink raises ends it."""
        early, self._early = self._early, []
        self._sink = sink
        for piece in early:
            self.take(piece)
        return self.over

    async def read(self, parts: list[bytes], limit: int) -> None:
        """Fill ``parts`` with the answer. Raises AnswerTooLarge, AnswerBroken; what came until then is there."""
        left = limit

        def keep(piece: bytes) -> None:
            nonlocal left
            parts.append(piece)
            left -= len(piece)
            if left < 0:
                raise AnswerTooLarge(f"the answer is larger than {limit} bytes")

        await self.flow(keep)

    def watch_silence(self, idle_s: float) -> None:
        """From now on the answer may be silent for so long only."""
        self._idle_s, self._last_at = idle_s, self._loop.time()
        if not self.ended:
            self._timer = self._loop.call_later(idle_s, self._look)

    def pause(self) -> None:
        """Read no more for now; that silence does not count."""
        if not self._paused and not self.ended:
            self._paused = True
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused, self._last_at = False, self._loop.time()
            self._connection.transport.resume_reading()

    def leave(self, *, whole: bool = False) -> None:
        """Close the connection unless the answer is complete. ``whole``: only its very end may be missing."""
        self._stop_timer()
        self._sink = _nowhere  # who took the pieces holds this exchange
        if self.ended:
            return
        self.resume()
        if whole:
            self._timer = self._loop.call_later(LAST_BYTES_S, self._connection.abort)
        else:
            self._connection.abort()

    def take(self, piece: bytes) -> None:
        """A piece of the answer has come, as it was sent."""
        self._last_at = self._loop.time()
        sink = self._sink
        if sink is None:
            self._early.append(piece)
            return
        try:
            if self.inflate is None:
                sink(piece)
            while self.inflate is not None and piece:
                sink(self.inflate.decompress(piece, INFLATED_AT_ONCE))
                piece = self.inflate.unconsumed_tail
        except zlib.error as error:
            self._fail(AnswerBroken(f"the answer cannot be decompressed: {error}"))
        except Exception as error:  # noqa: BLE001 - it is whoever waits for the end that gets it
            self._fail(error)

    def end(self, error: Exception | None) -> None:
        """Nothing more comes: it is complete, or broken."""
        self._stop_timer()
        self.ended = True
        for waiting in (self.head, self.over):
            if waiting.done():
                continue
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)
                waiting.exception()  # retrieved: perhaps nobody waits any more

    def _fail(self, error: Exception) -> None:
        self._sink = _nowhere
        if self.ended:  # before anybody took a piece of it
            self.over = self._loop.create_future()
        self.end(error)
        self._connection.abort()

    def _look(self) -> None:
        left_s = self._last_at + self._idle_s - self._loop.time()
        if left_s > 0 or self._paused:
            self._timer = self._loop.call_later(max(left_s, self._idle_s / 4), self._look)
            return
        self.end(Silence())
        self._connection.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ProviderConnections:
    """The connections to one base URL. Use inside a running event loop; ``close`` them."""

    def __init__(self, base_url: str, headers: Mapping[str, str], connect_timeout_s: float) -> None:
        url = urlsplit(base_url)
        assert url.hostname is not None
        self._tls = url.scheme == "https"
        self._host, self._port = url.hostname, url.port or (443 if self._tls else 80)
        self._path, query = url.path.rstrip("/"), f"?{url.query}" if url.query else ""
        self._connect_timeout_s = connect_timeout_s
        fixed = {"Host": url.netloc, "User-Agent": "ridges", "Accept": "*/*"}
        fixed |= {"Accept-Encoding": "identity", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        self._head = f"{query} HTTP/1.1\r\n{lines}"
        """What follows the path of every request."""
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._closed = False
        self._addresses: tuple[float, list[Any]] = (0.0, [])
        self._resolving = asyncio.Lock()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Exchange:
        """Send a request; returns when status and headers of its answer are known.

        Raises:
            ConnectFailed: no connection within the connect timeout.
            AnswerBroken: it broke before a status came.

        """
        connection = self._kept() or await self._connect()
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {self._path}/{path}{self._head}{more}Content-Length: {len(body)}\r\n\r\n"
        exchange = connection.ask(head.encode("latin-1"), body)
        try:
            await exchange.head
        except BaseException:
            exchange.leave()
            raise
        return exchange

    async def close(self) -> None:
        """Ends what is open."""
        self._closed = True
        for connection in tuple(self._open):
            connection.abort()

    def opened(self, connection: "_Connection") -> None:
        self._open.add(connection)

    def usable_again(self, connection: "_Connection") -> None:
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def gone(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _kept(self) -> "_Connection | None":
        """The one used last; those that are idle for too long are closed."""
        oldest = asyncio.get_running_loop().time() - KEEPALIVE_S
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.pop(0).abort()
        return self._idle.pop() if self._idle else None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                sock = await start_connection(
                    await self._resolved(), happy_eyeballs_delay=SECOND_FAMILY_AFTER_S, loop=loop
                )
                _, connection = await loop.create_connection(
                    lambda: _Connection(self),
                    sock=sock,
                    ssl=_tls_context() if self._tls else None,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            raise ConnectFailed(f"no connection to {where} within {self._connect_timeout_s:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"no connection to {where}: {error.strerror or error}") from error
        return connection

    async def _resolved(self) -> list[Any]:
        async with self._resolving:
            loop = asyncio.get_running_loop()
            until, addresses = self._addresses
            if loop.time() > until:
                addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._addresses = (loop.time() + ADDRESSES_KEPT_S, addresses)
            return addresses


class _Connection(asyncio.Protocol):
    """One connection, for one exchange at a time."""

    transport: asyncio.Transport

    def __init__(self, owner: ProviderConnections) -> None:
        self._owner = owner
        self.idle_since = 0.0
        self._exchange: Exchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._until_closed = False
        """The end of the answer is the end of the connection."""
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def ask(self, head: bytes, body: bytes) -> Exchange:
        exchange = self._exchange = Exchange(self)
        self._headers, self._head_size, self._until_closed = [], 0, False
        if len(body) <= COPIED:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        return exchange

    def abort(self) -> None:
        """Closed at once, and so seen by the provider."""
        self.transport.abort()

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is one in all but name
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:  # nobody asked
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broke(f"what came is no HTTP answer: {error}")
        else:
            if self._head_size > LARGEST_HEAD:
                self._broke(f"the headers are larger than {LARGEST_HEAD} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.gone(self)
        del self._parser  # which holds this
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if exc is None and self._until_closed and exchange.status:
            exchange.end(None)
        else:
            exchange.end(AnswerBroken(f"the connection broke: {exc}" if exc else "the connection was closed"))

    # What the parser says.

    def on_message_begin(self) -> None:
        if self._exchange is None:  # behind a complete answer
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        if self._head_size <= LARGEST_HEAD:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.status:
            return
        status = self._parser.get_status_code()
        if status < 200:  # one to wait by; the answer comes after it
            self._headers = []
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._headers}
        exchange.status, exchange.headers = status, headers
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding in COMPRESSED:
            exchange.inflate = zlib.decompressobj(GZIP_OR_ZLIB)
        elif coding != "identity":
            self._broke(f"the answer is encoded as {coding[:40]!r}, which was not asked for")
            return
        self._until_closed = "content-length" not in headers and "chunked" not in headers.get("transfer-encoding", "")
        if not exchange.head.done():
            exchange.head.set_result(None)

    def on_body(self, piece: bytes) -> None:
        if self._exchange is not None:
            self._exchange.take(piece)

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or not exchange.status:
            return
        self._exchange = None
        self._until_closed = False
        exchange.end(None)
        sent = not self.transport.get_write_buffer_size()
        if sent and self._parser.should_keep_alive() and not self.transport.is_closing():
            self.idle_since = asyncio.get_running_loop().time()
            self._owner.usable_again(self)
        else:
            self.abort()

    def _broke(self, why: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(AnswerBroken(why))
        self.abort()


def _nowhere(_: bytes) -> None:
    """What comes after the end is of no interest."""


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Reading the system's certificates takes some 30 ms: once, and only where there is TLS."""
    return ssl.create_default_context()
