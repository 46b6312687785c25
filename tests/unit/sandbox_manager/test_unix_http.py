"""What becomes of an engine's answers, whole, in pieces and broken off."""

import asyncio
import contextlib

import pytest

from ridges.sandbox_manager.engine_api import EngineApi, refused
from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.unix_http import Reply, request, upgraded


@contextlib.asynccontextmanager
async def answering(folder, *pieces: bytes):
    """A server that says this to everybody, piece by piece, and hangs up."""
    asked: list[bytes] = []

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        asked.append(head + await reader.readexactly(size))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_unix_server(answer, folder / "s")
    try:
        yield asked
    finally:
        server.close()
        await server.wait_closed()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (OK + b"Content-Length: 5\r\n\r\nhello",),
        (OK, b"content-length:5\r\n", b"\r\nhe", b"llo"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3;x=y\r\nllo\r\n0\r\n\r\n"),
        (OK + b"\r\nhel", b"lo"),
    ],
    ids=["at once", "in pieces", "in chunks", "until the end"],
)
async def test_an_answer_is_whole_however_it_comes(tmp_path, pieces):
    async with answering(tmp_path, *pieces) as asked:
        assert await request(f"{tmp_path}/s", "POST", "/x?y=z", b"{}") == Reply(200, b"hello")
    assert asked[0].startswith(b"POST /x?y=z HTTP/1.1\r\n")
    assert asked[0].endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (OK,),
        (b"SSH-2.0-OpenSSH\r\n\r\n",),
        (OK + b"Content-Length: 9\r\n\r\nhello",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",),
    ],
)
async def test_half_an_answer_is_none(tmp_path, pieces):
    async with answering(tmp_path, *pieces):
        with pytest.raises(ConnectionError):
            await request(f"{tmp_path}/s", "GET", "/")
        with pytest.raises(SandboxUnavailable, match="does not answer") as caught:
            await EngineApi(f"unix://{tmp_path}/s").image("x")
    assert refused(caught.value) is None


async def test_what_was_read_with_the_head_of_an_upgrade_is_not_lost(tmp_path):
    switched = b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nfirst words"
    async with answering(tmp_path, switched), upgraded(f"{tmp_path}/s", "/attach") as streams:
        assert not isinstance(streams, Reply)
        assert await streams[0].read() == b"first words"


async def test_a_refusal_is_told_in_the_engines_words(tmp_path):
    body = b'{"message":"No such image: x"}'
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with answering(tmp_path, answer):
        with pytest.raises(SandboxUnavailable, match="the Docker Engine refused: No such image: x") as caught:
            await EngineApi(f"unix://{tmp_path}/s").image("x")
        async with upgraded(f"{tmp_path}/s", "/attach") as streams:
            assert streams == Reply(404, body)
    assert refused(caught.value) == 404
