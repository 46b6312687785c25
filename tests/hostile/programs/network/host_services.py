"""Knocks at a real service of the host, on every address the host has, in every way; also its Unix sockets."""

import itertools
import os
import socket

port = int(os.environ["BAIT_PORT"])
addresses = os.environ["BAIT_ADDRESSES"].split()
interfaces = [name.encode() for _, name in socket.if_nameindex()]
kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
for address, kind, interface, direct in itertools.product(addresses, kinds, [b"", *interfaces], (0, 1)):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(0.2)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, direct)
            if interface:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface)
            sock.connect((address, port))
            sock.send(b"knock")
            if kind == socket.SOCK_STREAM and sock.recv(100) == b"bait":
                print("BROKE OUT: reached the host at", address, flush=True)
    except OSError:
        pass
for path in ("\0" + os.environ["BAIT_NAME"], os.environ["BAIT_PATH"]):
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            print("BROKE OUT: reached", repr(path), flush=True)
    except OSError:
        pass
