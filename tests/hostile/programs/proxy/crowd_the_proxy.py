"""Opens a thousand connections to the proxy, writes to none of them, and wants to go on."""

import os
import socket
import time

host, port = os.environ["SANDBOX_PROXY_URL"].removeprefix("http://").split(":")
crowd = []
for _ in range(1000):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((host, int(port)))
    crowd.append(sock)
time.sleep(1)
for sock in crowd:
    sock.close()
with socket.create_connection((host, int(port)), timeout=10) as sock:
    sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    print("answer", sock.recv(15).decode(), flush=True)
