"""A Docker Engine that can go away."""

import asyncio
import contextlib
from pathlib import Path


@contextlib.asynccontextmanager
async def engine_behind(socket: Path):
    """The engine behind a socket: ``cut()`` breaks connections, ``away`` refuses new ones, ``silent`` has them wait."""
    proxy = EngineProxy()
    server = await asyncio.start_unix_server(proxy, socket, limit=1 << 20)
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()


class EngineProxy:
    def __init__(self) -> None:
        self.away = self.silent = False
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        for writer in tuple(self._open):
            writer.transport.abort()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.away:
            writer.transport.abort()
            return
        self._open.add(writer)
        if self.silent:
            await reader.read()
            self._open.discard(writer)
            return
        onward_reader, onward_writer = await asyncio.open_unix_connection("/var/run/docker.sock", limit=1 << 20)
        self._open |= {writer, onward_writer}
        await asyncio.gather(_copy(reader, onward_writer), _copy(onward_reader, writer))
        self._open -= {writer, onward_writer}
        writer.close()
        onward_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(1 << 18):
            writer.write(content)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
