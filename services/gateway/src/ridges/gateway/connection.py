"""Callers that leave: noticed at once, while a call is answered and while a stream is relayed."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Self, TypeVar

from litestar import Request
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from ridges.gateway.errors import BodyInvalid, CallerGone

Result = TypeVar("Result")
AnyRequest = Request[Any, Any, Any]
LONGEST_KEY = 255


async def unless_gone(request: AnyRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of the work, which is cancelled as soon as the caller disconnects. The body must have been read.

    Raises:
        CallerGone: nobody is there to get the result.

    """
    with _Watch(request.receive) as watch:
        try:
            return await work
        except asyncio.CancelledError:
            if watch.left():
                raise CallerGone from None
            raise


def idempotency_key(request: AnyRequest) -> str | None:
    """The caller's ``Idempotency-Key``, where there is one.

    Raises:
        BodyInvalid: longer than 255 characters, or not plain ASCII.

    """
    key: str | None = request.headers.get("idempotency-key")
    if not key:
        return None
    if len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise BodyInvalid(("header", "Idempotency-Key"), f"must be at most {LONGEST_KEY} printable ASCII characters")
    return key


class EventStreamResponse(ASGIResponse):
    """Server-sent events. The generator is closed when the caller leaves."""

    __slots__ = ("_events", "_first")

    _should_set_content_length = False

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._first, self._events = first, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()

    async def send_body(self, send: Send, receive: Receive) -> None:
        with _Watch(receive) as watch:
            try:
                await self._relay(send)
            except asyncio.CancelledError:
                if not watch.left():
                    raise

    async def _relay(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for events in self._events:
            await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_response(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> ASGIResponse:
    return ASGIResponse(body=body, status_code=status, media_type="application/json", headers=headers)


class _Watch:
    """Cancels the task that is in the block as soon as the caller disconnects."""

    __slots__ = ("_leaving", "_over", "_task")

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._over = task, False
        self._leaving = asyncio.ensure_future(_disconnect(receive))
        self._leaving.add_done_callback(self._on_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._leaving.cancel()

    def left(self) -> bool:
        """Whether it was this that cancelled the task; then the task goes on."""
        if not self._leaving.done() or self._leaving.cancelled():
            return False
        return self._task.uncancel() == 0

    def _on_end(self, leaving: "asyncio.Future[None]") -> None:
        if not self._over and not leaving.cancelled() and leaving.exception() is None:
            self._task.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
