"""Targets that are not paths of the contract: absolute, CONNECT, encoded, doubled, upwards."""

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


for target in (
    *("http://127.0.0.1:8100/v1/runs", "http://gateway/v1/models", "https://example.com/", "//v1/models", "/v1//models"),
    *("/v1/../admin", "/v1/models/../../metrics", "/v1/%2e%2e/metrics", "/v1%2fmodels", "/v1/models%00", "/%76%31/models"),
    *("/v1/models;x", "/V1/models", "/v1/models/", "/metrics", "/readyz", "/livez", "/schema", "/v1/runs", "/", "*", ""),
    *("/v1/models#x", "/v1/models\t/x", "/v1/models\x00", "\\v1\\models", "/v1/chat/completions/../../../metrics"),
    *("@evil/v1/models", "/refused/404", "unix:/run/x", "/api/inference%20"),
):
    for method in ("GET", "POST", "CONNECT", "TRACE", "OPTIONS", "PURGE", "get", "GET\t"):
        reply = say(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
        if b"200 OK" in reply[:20]:
            print("BROKE OUT:", method, repr(target), reply[:60], flush=True)
print("aimed", flush=True)
