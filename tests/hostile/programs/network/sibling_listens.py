"""Waits for a sibling on every address, on an abstract name and in every directory that might be shared."""

import os
import socket
import threading
import time

listeners = [socket.create_server(("0.0.0.0", 46001)), socket.create_server(("::", 46002), family=socket.AF_INET6)]
unix = socket.socket(socket.AF_UNIX)
unix.bind("\0ridges-sibling")
unix.listen()
listeners.append(unix)
for directory in ("/tmp", "/dev/shm", os.path.expanduser("~")):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{directory}/sibling")
    sock.listen()
    listeners.append(sock)


def answer(listener):
    while True:
        listener.accept()
        print("BROKE OUT: a sibling called", flush=True)


for listener in listeners:
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
time.sleep(4)
