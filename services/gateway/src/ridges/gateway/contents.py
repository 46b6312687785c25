"""What callers sent and got, as blobs: an aid for people, so that losing one never fails a call.

Stored behind the call, many together. Only the answer under an idempotency key is a promise: that one is durable before
its call is settled.
"""

import asyncio
from typing import Literal

import structlog

from ridges.chassis.ports import BlobStore
from ridges.contracts.blobs import BlobRef

log = structlog.get_logger(__name__)

SMALL = 64 * 1024
"""Bytes that are hashed in no time: such a request is looked at when the call ends, larger ones meanwhile."""


class Contents:
    """Keeps contents, or not (setting ``contents``)."""

    def __init__(self, blobs: BlobStore, mode: Literal["full", "none"]) -> None:
        self._blobs, self._mode = blobs, mode

    async def keep(
        self, content: bytes, media_type: str = "application/json", *, durable: bool = False
    ) -> BlobRef | None:
        """The reference for the event; None when contents are not kept or the store fails (which is logged).

        ``durable``: stored for good when this returns.
        """
        if self._mode == "none" or not content:
            return None
        try:
            return await (self._blobs.put if durable else self._blobs.put_soon)(content, media_type)
        except Exception:  # stores raise what they like; the call goes on
            log.exception("contents of a model call could not be stored", size=len(content))
            return None

    def of_call(self, request: bytes, *, durable: bool) -> "CallContents":
        """Those of a call that begins now."""
        return CallContents(self, request, durable=durable)

    async def read(self, ref: BlobRef) -> bytes | None:
        """What was kept, or None when the store has lost it (which is logged)."""
        try:
            return await self._blobs.get(ref.digest)
        except Exception:  # stores raise what they like
            log.exception("contents of a model call could not be read", digest=ref.digest)
            return None

    async def flush(self) -> None:
        """Returns when everything kept so far is durable."""
        await self._blobs.flush()

    async def ping(self) -> None:
        if self._mode == "full":
            await self._blobs.ping()


class CallContents:
    """Request and answer of one call on their way into the store."""

    __slots__ = ("_contents", "_durable", "_keeping", "_request")

    def __init__(self, contents: Contents, request: bytes, *, durable: bool) -> None:
        self._contents, self._request, self._durable = contents, request, durable
        self._keeping: asyncio.Task[BlobRef | None] | None = None
        if durable or len(request) > SMALL:
            self._keeping = asyncio.create_task(contents.keep(request, durable=durable))

    async def request(self) -> BlobRef | None:
        """Where the request is."""
        if self._keeping is None:
            return await self._contents.keep(self._request)
        return await asyncio.shield(self._keeping)

    async def reply(self, answer: bytes, media_type: str) -> BlobRef | None:
        """Where the answer is."""
        return await self._contents.keep(answer, media_type, durable=self._durable)
