"""What is said to the first process of a container, and heard of it, on the streams that the engine passes on."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable

from ridges.sandbox_manager.wire import CANCEL, Launch, ReplyReader

OVERHEAD_S = 120.0
"""Unpacking before the command and collecting after it; the supervisor has tighter limits of its own."""
STDOUT = 1
"""The stream of ``pieces`` that holds what it writes to its stdout."""
_PIECE = 1 << 16
_MAX_STDERR = 4096
_HEADER = struct.Struct(">BxxxI")


async def pieces(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    """What comes from an attached container until its streams end: the stream's number, and 64 KiB at most."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            stream, size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            while size:
                piece = await reader.readexactly(min(size, _PIECE))
                size -= len(piece)
                yield stream, piece


async def say(writer: asyncio.StreamWriter, started: Launch, cancelled: asyncio.Event, limit: asyncio.Timeout) -> None:
    """Everything that the supervisor must know; later, perhaps, that it must end. stdin stays open."""
    with contextlib.suppress(ConnectionError):
        for piece in started.stdin:
            view = memoryview(piece)
            for at in range(0, len(view), _PIECE):
                writer.write(view[at : at + _PIECE])
                await writer.drain()
        await cancelled.wait()
        limit.reschedule(asyncio.get_running_loop().time() + OVERHEAD_S)
        writer.write(CANCEL)
        await writer.drain()


async def listen(
    reader: asyncio.StreamReader, reply: ReplyReader, stderr: bytearray, collecting: Callable[[], None]
) -> None:
    """Until the result is complete or the stream ends."""
    async for stream, piece in pieces(reader):
        if stream == STDOUT:
            before = reply.collecting
            reply.feed(piece)
            if reply.collecting and not before:
                collecting()
            if reply.complete:
                return
        else:
            stderr += piece
            del stderr[:-_MAX_STDERR]
