"""Opens a thousand connections to the proxy, writes to none of them, and wants to go on."""

import os
import socket
import time

host, port = os.environ["PROXY"].removeprefix("http://").split(":")
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
    sock.sendall(b"hello")
    print(sock.recv(5).decode(), flush=True)
