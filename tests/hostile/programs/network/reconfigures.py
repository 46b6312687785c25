"""Adds interfaces, addresses, routes and rules to its network, by netlink and by ioctl."""

import ctypes
import fcntl
import os
import socket
import struct

NEWLINK, NEWADDR, NEWROUTE, NEWNSID, GETLINK = 16, 20, 24, 88, 18
try:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(1)
        for kind, body in (
            (NEWLINK, struct.pack("BxHiII", 0, 0, 1, 0x1, 0x1)),
            (NEWLINK, struct.pack("BxHiII", 0, 0, 0, 0, 0) + struct.pack("HH8s", 12, 3, b"evil0\0\0\0")),
            (NEWADDR, struct.pack("BBBBI", 2, 24, 0, 0, 1) + struct.pack("HH4s", 8, 2, bytes((10, 9, 8, 7)))),
            (NEWROUTE, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + struct.pack("HHI", 8, 4, 1)),
        ):
            netlink.send(struct.pack("IHHII", 16 + len(body), kind, 0x405, 1, 0) + body)
            reply = netlink.recv(4096)
            error = struct.unpack_from("i", reply, 16)[0]
            if error == 0:
                print("BROKE OUT: netlink", kind, flush=True)
except OSError:
    pass
for request in (0x8914, 0x8916, 0x890B, 0x8924, 0x8922, 0x89A0):  # flags, address, route, hardware, mtu, bridge
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, request, struct.pack("16sH6s8x", b"lo", 0x1, b"\x0a\x09\x08\x07\0\0") + b"\0" * 64)
            print("BROKE OUT: ioctl", hex(request), flush=True)
    except OSError:
        pass
for path in ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/net/core/somaxconn"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print("BROKE OUT:", path, flush=True)
    except OSError:
        pass
if ctypes.CDLL(None).unshare(0x40000000) == 0:
    print("BROKE OUT: a network of its own")
