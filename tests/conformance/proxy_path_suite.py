"""The way from a sandbox to its proxy, for every adapter: byte for byte, many at once, half-close, streaming."""

import asyncio

from sandboxes import gone, python, sandbox_spec

from ridges.sandbox_manager.ports import PROXY_URL

CLIENT = """
import concurrent.futures, hashlib, os, socket, sys, threading, time
host, port = os.environ["PROXY"].removeprefix("http://").split(":")
def connect():
    return socket.create_connection((host, int(port)), timeout=20)
def echo(size):
    s = connect(); data = os.urandom(size)
    threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
    got = b"".join(iter(lambda: s.recv(65536), b""))
    return got == data
"""


class ProxyPathSuite:
    async def talked(self, sandbox, text, **changes):
        spec = sandbox_spec(*python(CLIENT + text), env={"PROXY": PROXY_URL}, **changes)
        try:
            return await sandbox.run(spec, asyncio.Event())
        finally:
            await gone(spec)

    async def test_bytes_go_through_both_ways(self, sandbox, proxy_dir):
        end = await self.talked(sandbox, "print([echo(n) for n in (0, 1, 100_000, 20_000_000)])", proxy_dir=proxy_dir)
        assert end.log == b"[True, True, True, True]\n"

    async def test_many_connections_at_once(self, sandbox, proxy_dir):
        many = "print(sum(concurrent.futures.ThreadPoolExecutor(60).map(echo, [200_000] * 300)))"
        end = await self.talked(sandbox, many, proxy_dir=proxy_dir)
        assert end.log == b"300\n"

    async def test_pieces_are_not_held_back(self, sandbox, proxy_dir):
        talk = (
            "s = connect(); began = time.monotonic()\n"
            "for n in range(200):\n s.sendall(b'x'); assert s.recv(1) == b'x'\n"
            "print(time.monotonic() - began < 2)"
        )
        end = await self.talked(sandbox, talk, proxy_dir=proxy_dir)
        assert end.log == b"True\n"

    async def test_a_client_that_vanishes_does_no_harm(self, sandbox, proxy_dir):
        leave = "for n in range(500):\n s = connect(); s.sendall(b'x' * 100_000); s.close()\nprint(echo(1000))"
        end = await self.talked(sandbox, leave, proxy_dir=proxy_dir)
        assert end.log == b"True\n"

    async def test_a_client_that_does_not_read_does_no_harm(self, sandbox, proxy_dir):
        block = (
            "s = connect(); s.settimeout(1)\n"
            "try:\n s.sendall(b'x' * 50_000_000)\n"
            "except TimeoutError: print('slowed')\nprint(echo(1000))"
        )
        end = await self.talked(sandbox, block, proxy_dir=proxy_dir)
        assert end.log == b"slowed\nTrue\n"

    async def test_a_proxy_that_is_gone_is_a_bad_gateway(self, sandbox, tmp_path):
        (tmp_path / "empty").mkdir()
        ask = "s = connect(); print(s.recv(1000).decode().splitlines()[0])"
        end = await self.talked(sandbox, ask, proxy_dir=tmp_path / "empty")
        assert end.log == b"HTTP/1.1 502 Bad Gateway\n"

    async def test_the_log_flows_while_connections_do(self, sandbox, proxy_dir):
        both = "threading.Thread(target=lambda: print('x' * 3_000_000)).start(); print(echo(5_000_000)); print('end')"
        end = await self.talked(sandbox, both, proxy_dir=proxy_dir)
        assert b"True" in end.log or end.exit.log_truncated_chars
        assert end.exit.exit_code == 0
