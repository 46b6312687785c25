"""Thousands of connections that are cut, half closed or left half said, and readers that never read: for whoever relays."""

import os
import socket
import struct

host, port = os.environ["SANDBOX_PROXY_URL"].removeprefix("http://").split(":")
CALL = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"


def connected(raw=b"", patience=0.2):
    """A connection on which that much was said as was taken."""
    sock = socket.socket()
    sock.settimeout(patience)
    try:
        sock.connect((host, int(port)))
        sock.sendall(raw)
    except OSError:
        pass
    return sock


for _ in range(1500):
    sock = connected(b"GET /v1/mod")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
    sock.close()
for _ in range(500):
    sock = connected(CALL)
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    sock.close()
deaf = [connected(CALL * 20_000, 0.05) for _ in range(40)]  # and never reads an answer
whole = b"POST /api/inference HTTP/1.1\r\nHost: x\r\nContent-Length: 16000000\r\n\r\n" + b"x" * 15_000_000
slow = [connected(whole, 0.05) for _ in range(10)]
idle = [connected(b"", 0.02) for _ in range(500)]
for sock in (*deaf, *slow, *idle):
    sock.close()
with socket.create_connection((host, int(port)), timeout=15) as sock:
    sock.sendall(CALL)
    print("honest call:", sock.recv(15).decode(), flush=True)
