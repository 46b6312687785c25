"""Calls over HTTP: read whole, answered whole or piece by piece, and given up as soon as the caller leaves.

The calls of models come here straight from the HTTP server; everything else goes through Litestar (ADR 35).
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Self, TypeVar

from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from ridges.chassis.http_protocol import LINE, Line
from ridges.gateway.errors import BodyInvalid, BodyTooLarge, CallerGone

Result = TypeVar("Result")
LONGEST_KEY = 255
LARGEST_BODY = 16 * 1024 * 1024
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_JSON = (b"content-type", b"application/json")
_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class Request:
    """One request for a model call."""

    __slots__ = ("_receive", "_scope", "line", "send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self.send = scope, receive, send
        extensions: dict[str, Any] = scope["extensions"]  # type: ignore[assignment]
        self.line: Line = extensions[LINE]

    @property
    def method(self) -> str:
        method: str = self._scope["method"]  # type: ignore[typeddict-item]
        return method

    @property
    def path(self) -> str:
        return self._scope["path"]

    def header(self, name: bytes) -> str | None:
        """By its name in lower case."""
        for known, value in self._scope["headers"]:
            if known == name:
                return value.decode("latin-1")
        return None

    async def body(self) -> bytes:
        """Raises BodyTooLarge, CallerGone."""
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > LARGEST_BODY:
            raise BodyTooLarge
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise CallerGone
            part = message["body"]
            if not message["more_body"] and not parts:
                return _bounded(part)
            parts.append(part)
            size += len(part)
            if size > LARGEST_BODY:
                raise BodyTooLarge
            if not message["more_body"]:
                return b"".join(parts)

    def idempotency_key(self) -> str | None:
        """The caller's ``Idempotency-Key``, where there is one.

        Raises:
            BodyInvalid: longer than 255 characters, or not plain ASCII.

        """
        key = self.header(b"idempotency-key")
        if not key:
            return None
        if len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
            why = f"must be at most {LONGEST_KEY} printable ASCII characters"
            raise BodyInvalid(("header", "Idempotency-Key"), why)
        return key

    def answer(self, body: bytes, *, status: int = 200, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """A JSON document."""
        more = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        self.line.answer(status, (_JSON, *more), body)

    async def unless_gone(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of the work, which is cancelled as soon as the caller disconnects. The body must have been read.

        Raises:
            CallerGone: nobody is there to get the result.

        """
        with _Watch(self.line) as watch:
            try:
                return await work
            except asyncio.CancelledError:
                if watch.left():
                    raise CallerGone from None
                raise


class EventStream:
    """An answer of server-sent events, written straight to the caller's connection."""

    def __init__(self, request: Request) -> None:
        self.begun = False
        self._send, self._line = request.send, request.line
        self.write = self._line.write_chunk
        self.when_read = self._line.when_read

    async def begin(self) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})

    async def end(self) -> None:
        """Everything was written."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def json_response(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> ASGIResponse:
    return ASGIResponse(body=body, status_code=status, media_type="application/json", headers=headers)


def _bounded(body: bytes) -> bytes:
    if len(body) > LARGEST_BODY:
        raise BodyTooLarge
    return body


class _Watch:
    """Cancels the task that is in the block as soon as the caller disconnects."""

    __slots__ = ("_left", "_line", "_task")

    def __init__(self, line: Line) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._line, self._task, self._left = line, task, False

    def __enter__(self) -> Self:
        self._line.on_gone = self._on_gone
        self._line.listen()
        if self._line.gone:
            self._on_gone()
        return self

    def __exit__(self, *_: object) -> None:
        self._line.on_gone = None

    def left(self) -> bool:
        """Whether it was this that cancelled the task; then the task goes on."""
        return self._left and self._task.uncancel() == 0

    def _on_gone(self) -> None:
        if not self._left:
            self._left = True
            self._task.cancel()


Handler = Callable[[Request], Coroutine[Any, Any, None]]
"""Answers one request, or raises GatewayError for it."""
