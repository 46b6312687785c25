"""Provokes every error of proxy and gateway, and reads them for what they give away."""

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


import re

replies = b""
for raw in (
    b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
    b"TRACE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"garbage\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    b"POST /api/inference HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n",
    b"POST /api/inference HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nConnection: close\r\n\r\nexplode",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
):
    replies += say(raw, 1.0)
for what, pattern in {
    "a run token": rb"[0-9a-f-]{36}\.[0-9a-f]{64}",
    "a bearer": rb"Bearer (?!token)",
    "a path of the host": rb"(/tmp|/home|/root|/var/lib|/run/ridges-|conf)/[a-z0-9]+",
    "a server's version": rb"nginx/\d",
    "an address": rb"127\.0\.0\.1:\d+|unix:",
    "a traceback": rb"Traceback|File \"",
    "a canary": b"CANARY" + rb"-[0-9a-f]{16}",
}.items():
    if found := re.search(pattern, replies):
        print("BROKE OUT:", what, found[0][:60], flush=True)
print("read", len(replies), flush=True)
