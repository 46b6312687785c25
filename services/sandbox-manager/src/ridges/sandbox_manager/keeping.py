"""Puts what a sandbox left into the blob store, for as long as that takes: a result is never made again for it."""

import asyncio
from collections.abc import Iterable
from itertools import chain, repeat

import structlog

from ridges.chassis.ports import BlobStore
from ridges.contracts.blobs import BlobRef

log = structlog.get_logger(__name__)

_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""After each failure; the last one repeats."""

Content = tuple[bytes, str]
"""(bytes, media type)"""


async def keep(blobs: BlobStore, contents: Iterable[Content]) -> list[BlobRef]:
    """References to the contents, once the store has all of them.

    Waits for ever while the store refuses (full, away): meanwhile the contents stay in memory, and the slot they came
    from stays taken. So at most one result per slot is held, each within the caps of its sandbox.
    """
    return [await _put(blobs, content, media_type) for content, media_type in contents]


async def _put(blobs: BlobStore, content: bytes, media_type: str) -> BlobRef:
    for delay_s in chain(_DELAYS_S, repeat(_DELAYS_S[-1])):
        try:
            return await blobs.put(content, media_type)
        except Exception as error:  # noqa: BLE001 - each store has errors of its own; none of them is the result's
            log.warning("the blob store takes no result now, it is held", error=str(error), size=len(content))
        await asyncio.sleep(delay_s)
    raise AssertionError("unreachable")
