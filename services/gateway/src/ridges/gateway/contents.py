"""What callers sent and got, as blobs: an aid for people, so that losing one never fails a call."""

from typing import Literal

import structlog

from ridges.chassis.ports import BlobStore
from ridges.contracts.blobs import BlobRef

log = structlog.get_logger(__name__)


class Contents:
    """Keeps contents, or not (setting ``contents``)."""

    def __init__(self, blobs: BlobStore, mode: Literal["full", "none"]) -> None:
        self._blobs, self._mode = blobs, mode

    async def keep(self, content: bytes, media_type: str = "application/json") -> BlobRef | None:
        """The reference for the event; None when contents are not kept or the store fails (which is logged)."""
        if self._mode == "none" or not content:
            return None
        try:
            return await self._blobs.put(content, media_type)
        except Exception:  # stores raise what they like; the call goes on
            log.exception("contents of a model call could not be stored", size=len(content))
            return None

    async def read(self, ref: BlobRef) -> bytes | None:
        """What was kept, or None when the store has lost it (which is logged)."""
        try:
            return await self._blobs.get(ref.digest)
        except Exception:  # stores raise what they like
            log.exception("contents of a model call could not be read", digest=ref.digest)
            return None

    async def ping(self) -> None:
        if self._mode == "full":
            await self._blobs.ping()
