"""HTTP/1.1 on a Unix socket, one connection a request: all that the API of a Docker Engine needs. Source: RFC 9112."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_SWITCHED, _NO_CONTENT = 101, (204, 304)


class Reply(msgspec.Struct, frozen=True):
    """What a server answered."""

    status: int
    content: bytes


async def request(socket: str, method: str, target: str, body: bytes | None = None) -> Reply:
    """One request and its whole answer, whatever its status.

    Raises:
        OSError: nobody listens there, or the connection ended before the answer did.
    """
    async with _connected(socket) as (reader, writer):
        status, headers = await _asked((reader, writer), method, target, {"Connection": "close"}, body)
        return Reply(status, b"" if status in _NO_CONTENT else await _content(reader, headers))


@contextlib.asynccontextmanager
async def upgraded(socket: str, target: str) -> AsyncIterator[Streams | Reply]:
    """A connection that both sides have stopped speaking HTTP on, or why the server did not. Leaving cuts it.

    Raises:
        OSError: as ``request``.
    """
    async with _connected(socket) as (reader, writer):
        status, headers = await _asked(
            (reader, writer), "POST", target, {"Connection": "Upgrade", "Upgrade": "tcp"}, None
        )
        yield (reader, writer) if status == _SWITCHED else Reply(status, await _content(reader, headers))


@contextlib.asynccontextmanager
async def _connected(socket: str) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # what was not sent yet, nobody reads any more
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _asked(
    streams: Streams, method: str, target: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer; names in lower case."""
    reader, writer = streams
    headers = {"Host": "localhost", **headers, "Content-Length": str(len(body or b""))}
    if body:
        headers["Content-Type"] = "application/json"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + (body or b""))
    try:
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        fields = (line.partition(":") for line in rest if line)
        return int(first.split(" ")[1]), {name.strip().lower(): value.strip() for name, _, value in fields}
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
        raise ConnectionError("it did not answer in HTTP") from error


async def _content(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await _chunks(reader)
        if (size := headers.get("content-length")) is not None:
            return await reader.readexactly(int(size))
        return await reader.read()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise ConnectionError("its answer was cut short") from error


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    content = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        content += (await reader.readexactly(size + 2))[:-2]
    return bytes(content)
