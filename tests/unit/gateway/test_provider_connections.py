"""HTTP with a provider: every form of answer is read, every broken one is told, connections are used again."""

import asyncio
import gc
import gzip
import shutil
import ssl
import subprocess
import weakref
import zlib
from contextlib import asynccontextmanager

import pytest

from ridges.gateway import provider_connections
from ridges.gateway.provider_connections import (
    AnswerBroken,
    AnswerTooLarge,
    ConnectFailed,
    ProviderConnections,
    Silence,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n%b"


class Server:
    """Answers the requests of each connection with what the script says: bytes, seconds to wait, or None to hang up."""

    def __init__(self, *script):
        self.script = list(script)
        self.connections, self.requests, self.lost = 0, [], asyncio.Event()

    @asynccontextmanager
    async def running(self, **options):
        tls = options.get("tls")
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        address = f"{options.get('host', '127.0.0.1')}:{server.sockets[0].getsockname()[1]}"
        scheme = "https" if tls else "http"
        base_url = f"{scheme}://{address}/v1{options.get('query', '')}"
        provider = ProviderConnections(base_url, {"Authorization": "Bearer key"}, 5.0)
        try:
            yield provider
        finally:
            await provider.close()
            server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append((head, await reader.readexactly(length)))
                for act in self.script.pop(0):
                    if act is None:
                        return
                    if isinstance(act, float):
                        await asyncio.sleep(act)
                    else:
                        writer.write(act)
                        await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.lost.set()
            writer.close()


async def ask(provider, limit=1_000_000):
    """(status, body)"""
    exchange = await provider.post("chat/completions", b"{}", {})
    parts = []
    try:
        await exchange.read(parts, limit)
    finally:
        exchange.leave()
    return exchange.status, b"".join(parts)


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS = {
    "length": [HEAD + LENGTH % (5, b"hello")],
    "length in pieces": [HEAD, b"Content-Length: 5\r\n\r\nhe", 0.01, b"llo"],
    "chunked": [CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"],
    "chunked byte by byte": [bytes([byte]) for byte in CHUNKED + b"5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n"],
    "until it closes": [HEAD + b"\r\nhello", None],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\nhello", None],
    "after a 100": [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + LENGTH % (5, b"hello")],
    "after hints": [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + LENGTH % (5, b"hello")],
    "gzip": [HEAD + b"Content-Encoding: gzip\r\n" + LENGTH % (len(gzip.compress(b"hello")), gzip.compress(b"hello"))],
    "deflate": [
        HEAD + b"Content-Encoding: deflate\r\n" + LENGTH % (len(zlib.compress(b"hello")), zlib.compress(b"hello"))
    ],
}


@pytest.mark.parametrize("script", ANSWERS.values(), ids=ANSWERS)
async def test_every_form_of_an_answer_is_read(script):
    async with Server(script).running() as provider:
        assert await ask(provider) == (200, b"hello")


BROKEN = {
    "nothing": ([None], "was closed"),
    "half a head": ([HEAD, None], "was closed"),
    "half a body": ([HEAD + b"Content-Length: 9\r\n\r\nhello", None], "was closed"),
    "half a chunk": ([CHUNKED + b"9\r\nhello", None], "was closed"),
    "no last chunk": ([CHUNKED + b"5\r\nhello\r\n", None], "was closed"),
    "no HTTP": ([b"SSH-2.0-OpenSSH\r\n"], "no HTTP answer"),
    "no length": ([CHUNKED + b"hello\r\n"], "no HTTP answer"),
    "two lengths": ([HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"], "no HTTP answer"),
    "endless headers": ([HEAD + b"X: %b\r\n" % (b"x" * 100_000) + b"\r\n"], "larger than 65536"),
    "an unknown coding": ([HEAD + b"Content-Encoding: br\r\n" + LENGTH % (5, b"hello")], "encoded as 'br'"),
    "a false coding": ([HEAD + b"Content-Encoding: gzip\r\n" + LENGTH % (5, b"hello")], "decompressed"),
}


@pytest.mark.parametrize(("script", "why"), BROKEN.values(), ids=BROKEN)
async def test_every_broken_answer_is_told(script, why):
    server = Server(script)
    async with server.running() as provider:
        with pytest.raises(AnswerBroken, match=why):
            await ask(provider)
        await asyncio.wait_for(server.lost.wait(), 5)


async def test_an_answer_that_is_too_large_is_not_read_on_also_when_it_was_compressed():
    bomb = gzip.compress(b"x" * 50_000_000)
    server = Server([HEAD + b"Content-Encoding: gzip\r\n" + LENGTH % (len(bomb), bomb)])
    async with server.running() as provider:
        with pytest.raises(AnswerTooLarge):
            await ask(provider, limit=2_000_000)
        await asyncio.wait_for(server.lost.wait(), 5)


async def test_a_connection_is_used_again_after_a_whole_answer():
    server = Server(*[[HEAD + LENGTH % (5, b"hello")]] * 3)
    async with server.running() as provider:
        for _ in range(3):
            assert await ask(provider) == (200, b"hello")
    assert (server.connections, len(server.requests)) == (1, 3)
    head, body = server.requests[0]
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer key\r\n" in head
    assert body == b"{}"


@pytest.mark.parametrize(
    "first",
    [
        [HEAD + b"Connection: close\r\n" + LENGTH % (5, b"hello")],
        [HEAD + LENGTH % (5, b"hello"), None],
        [HEAD + LENGTH % (5, b"hello") + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"],
        [HEAD + LENGTH % (5, b"hello"), 0.02, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"],
    ],
    ids=["told", "closed", "one answer too many", "later too"],
)
async def test_a_connection_is_not_used_again_where_it_is_closed_or_says_what_nobody_asked(first):
    server = Server(first, [HEAD + LENGTH % (5, b"again")])
    async with server.running() as provider:
        assert await ask(provider) == (200, b"hello")
        await asyncio.sleep(0.1)
        assert await ask(provider) == (200, b"again")
    assert server.connections == 2


async def test_a_stream_whose_last_event_came_gives_its_connection_back():
    server = Server([CHUNKED + b"5\r\nhello\r\n", 0.05, b"0\r\n\r\n"], [HEAD + LENGTH % (5, b"again")])
    async with server.running() as provider:
        exchange = await provider.post("chat/completions", b"{}", {})
        exchange.flow(lambda _: None)
        exchange.leave(whole=True)
        await asyncio.sleep(0.2)
        assert await ask(provider) == (200, b"again")
    assert server.connections == 1


async def test_leaving_in_the_middle_closes_the_connection_at_once():
    server = Server([CHUNKED + b"5\r\nhello\r\n", 30.0])
    async with server.running() as provider:
        exchange = await provider.post("chat/completions", b"{}", {})
        reading = asyncio.ensure_future(exchange.read([], 100))
        await asyncio.sleep(0.01)
        reading.cancel()
        exchange.leave()
        server.script.append([])
        await asyncio.sleep(0.1)
        assert not provider._open


async def test_silence_is_told_unless_it_was_the_reader_who_paused():
    server = Server([CHUNKED, b"5\r\nhello\r\n", 30.0], [CHUNKED, 0.1, b"5\r\nhello\r\n0\r\n\r\n"])
    async with server.running() as provider:
        exchange = await provider.post("chat/completions", b"{}", {})
        exchange.watch_silence(0.1)
        with pytest.raises(Silence):
            await exchange.read([], 100)
        exchange = await provider.post("chat/completions", b"{}", {})
        exchange.watch_silence(0.2)
        exchange.pause()
        await asyncio.sleep(0.5)
        exchange.resume()
        parts = []
        await exchange.read(parts, 100)
        assert parts == [b"hello"]


async def test_what_a_sink_raises_ends_the_answer():
    server = Server([CHUNKED, b"5\r\nhello\r\n", 30.0])

    def sink(_):
        raise ValueError("no")

    async with server.running() as provider:
        exchange = await provider.post("chat/completions", b"{}", {})
        with pytest.raises(ValueError, match="no"):
            await exchange.flow(sink)


async def test_a_large_body_arrives_whole():
    server = Server([HEAD + LENGTH % (5, b"hello")])
    body = bytes(range(256)) * 40_000
    async with server.running() as provider:
        exchange = await provider.post("embeddings", body, {"traceparent": "00-1"})
        await exchange.read([], 100)
    head, received = server.requests[0]
    assert received == body
    assert b"\r\ntraceparent: 00-1\r\n" in head


@pytest.fixture
def tls(tmp_path, monkeypatch):
    """A server's certificate for localhost, trusted by this process."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    provider_connections._tls_context.cache_clear()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    yield context
    provider_connections._tls_context.cache_clear()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes the certificate, is missing")
async def test_providers_speak_tls(tls):
    server = Server([HEAD + LENGTH % (5, b"hello")], [CHUNKED, b"5\r\nhello\r\n", 0.01, b"0\r\n\r\n"], [CHUNKED, 30.0])
    async with server.running(tls=tls, host="localhost") as provider:
        assert [await ask(provider), await ask(provider)] == [(200, b"hello")] * 2
        assert server.connections == 1
        exchange = await provider.post("chat/completions", bytes(1_000_000), {})
        server.lost.clear()
        exchange.leave()
        await asyncio.sleep(0.1)
        assert not provider._open


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes the certificate, is missing")
async def test_a_certificate_for_another_name_is_refused(tls):
    async with Server().running(tls=tls) as provider:
        with pytest.raises(ConnectFailed, match=r"no connection to 127\.0\.0\.1.*certificate"):
            await ask(provider)


async def test_what_cannot_be_reached_is_told_with_its_address(unused_tcp_port):
    nobody = ProviderConnections(f"http://127.0.0.1:{unused_tcp_port}", {}, 1.0)
    with pytest.raises(ConnectFailed, match=f"no connection to 127.0.0.1:{unused_tcp_port}"):
        await ask(nobody)
    unknown = ProviderConnections("http://no-such-host.invalid/v1", {}, 5.0)
    with pytest.raises(ConnectFailed, match=r"no connection to no-such-host\.invalid:80"):
        await ask(unknown)


async def test_the_query_of_a_base_url_goes_with_each_request():
    server = Server([CHUNKED + b"0\r\n\r\n"])
    async with server.running(query="?api-version=2024-10-21") as provider:
        assert await ask(provider) == (200, b"")
    assert server.requests[0][0].startswith(b"POST /v1/chat/completions?api-version=2024-10-21 HTTP/1.1\r\n")


class Taker:
    """Takes the pieces of an answer, and holds where they come from."""

    def __init__(self, exchange):
        self.exchange = exchange
        self.over = exchange.flow(self.take)

    def take(self, piece):
        pass


ENDINGS = {"whole": [CHUNKED + b"0\r\n\r\n"], "left": [CHUNKED, 1.0], "broken": [CHUNKED, None]}


@pytest.mark.parametrize("acts", ENDINGS.values(), ids=ENDINGS)
async def test_an_exchange_that_is_over_leaves_nothing_to_collect(acts):
    async with Server(acts).running() as provider:
        gc.collect()
        gc.disable()
        try:
            taker = Taker(await provider.post("chat/completions", b"{}", {}))
            await asyncio.wait({taker.over}, timeout=0.1)
            taker.exchange.leave()
            held = [weakref.ref(taker), weakref.ref(taker.exchange._connection)]
            await provider.close()
            del taker
            await asyncio.sleep(0.05)
            assert [reference() for reference in held] == [None, None]
        finally:
            gc.enable()
