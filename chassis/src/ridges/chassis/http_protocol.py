"""HTTP/1.1 as uvicorn reads it, with an end to waiting and errors that programs can read."""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

UNREADABLE = "This is not HTTP/1.1 as this server reads it: check the request line, the headers and the length."
TOO_SLOW = "The request did not arrive within {0:g} s. Send it faster or in smaller parts."
_REASONS = {400: b"Bad Request", 408: b"Request Timeout"}
_HEAD = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"


LINE = "ridges.line"
"""Name of the ASGI extension that holds the request's connection."""


class Line:
    """What an application may do with the connection of a request beyond ASGI: nothing of it waits or wakes a task."""

    gone = False
    """The caller has disconnected."""

    cycle: RequestResponseCycle
    """Of the request that is being answered."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self.on_gone: Callable[[], None] | None = None
        """Called once, when the caller disconnects."""
        self._transport, self._flow, self._then = transport, flow, list[Callable[[], None]]()

    def listen(self) -> None:
        """Notice from now on when the caller leaves, though the body of the request has been read."""
        self._flow.resume_reading()

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer in one write, where ``send`` makes two. Closes the connection in the middle of another one."""
        if self.gone:
            return
        cycle = self.cycle
        if cycle.response_started:
            self._transport.close()
            return
        lines = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"content-length: %d\r\n\r\n" % len(body), body)
        self._transport.write(b"".join(lines))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()

    def write_chunk(self, piece: bytes) -> bool:
        """A piece of the chunked body of an answer that has begun. False: the caller reads slowly."""
        if not self.gone:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return not self._flow.write_paused

    def when_read(self, then: Callable[[], None]) -> None:
        """Call it once the slow caller has caught up, or is gone."""
        if self._flow.write_paused and not self.gone:
            self._then.append(then)
        else:
            then()

    def caught_up(self) -> None:
        then, self._then = self._then, []
        for act in then:
            act()

    def lost(self) -> None:
        self.gone = True
        self.caught_up()
        if self.on_gone is not None:
            self.on_gone()
        self.__dict__.pop("cycle", None)


class AmbiguousHost(Exception):
    """Not one Host. Source: RFC 9112, 3.2: such a request is to be answered with 400."""


class StrictProtocol(HttpToolsProtocol):
    """One connection. A request that does not parse gets a 400, one that is not there in time a 408, both as JSON."""

    read_timeout_s: float = 60.0
    """From the first byte of a request to its last."""

    _arriving = False
    _answered: RequestResponseCycle | None = None
    """The cycle of the request before the one that is arriving."""
    _arrival_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._line = Line(transport, self.flow)
        self._await_arrival()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._arriving and self._arrival_timer is None:
            self._await_arrival()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)
        self._line.lost()
        self.cycle = None  # type: ignore[assignment]  # it holds this, and so would stay until garbage is collected

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._line.cycle = cycle
        super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._line.caught_up()

    def on_message_begin(self) -> None:
        self._arriving, self._answered = True, self.cycle
        super().on_message_begin()
        self.scope["extensions"] = {LINE: self._line}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        hosts = sum([name == b"host" for name, _ in self.headers])
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise AmbiguousHost
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text says less
        self._end(400, UNREADABLE)

    def _await_arrival(self) -> None:
        self._arrival_timer = self.loop.call_later(self.read_timeout_s, self._too_slow)

    def _arrived(self) -> None:
        self._arriving = False
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
            self._arrival_timer = None

    def _too_slow(self) -> None:
        self._arrival_timer = None
        if self._arriving:
            self._end(408, TOO_SLOW.format(self.read_timeout_s))
        else:
            self.transport.close()  # connected, and never said a word

    def _end(self, status: int, detail: str) -> None:
        """Answer, unless this request has got its answer already, and close."""
        self._arrived()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or (cycle.response_complete if cycle is self._answered else not cycle.response_started):
            body = json.dumps({"detail": detail}).encode()
            self.transport.write(_HEAD % (status, _REASONS[status], len(body)) + body)
        self.transport.close()


def strict_protocol(read_timeout_s: float) -> type[StrictProtocol]:
    """The protocol class with its time limit."""
    fields: dict[str, Any] = {"read_timeout_s": read_timeout_s}
    return type("StrictProtocol", (StrictProtocol,), fields)
