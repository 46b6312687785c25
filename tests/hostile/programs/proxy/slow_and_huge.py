"""Huge headers and bodies, bodies that come a byte at a time or never, upgrades, old versions of HTTP."""

import os
import socket

host, port = os.environ["SANDBOX_PROXY_URL"].removeprefix("http://").split(":")


def say(raw, patience=1.5):
    """What comes back for these bytes, until the proxy closes or patience ends."""
    got = b""
    try:
        with socket.create_connection((host, int(port)), timeout=patience) as sock:
            sock.sendall(raw)
            while piece := sock.recv(65536):
                got += piece
    except OSError as error:
        return got or repr(error).encode()
    return got


import time

for raw in (
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
    b"GET /v1/models?" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/inference HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /v1/models\r\n",
    b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /api/inference HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 17000000\r\n\r\n",
):
    print(say(raw, 1.0)[:40], flush=True)
slow = [socket.create_connection((host, int(port))) for _ in range(20)]
for byte in b"POST /api/inf":
    for sock in slow:
        sock.send(bytes((byte,)))
    time.sleep(0.02)
head = b"POST /api/inference HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
bodies = [socket.create_connection((host, int(port))) for _ in range(20)]
for number, sock in enumerate(bodies):
    sock.send(head + (b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nf4240\r\n")[number % 2])
for byte in b'{"evaluation':
    for sock in bodies:
        sock.send(bytes((byte,)))
    time.sleep(0.02)
reply = say(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
print("honest call:", reply[:15].decode(), flush=True)
