"""Raw frames, pings, transparent and freely bound sockets, tunnels."""

import fcntl
import os
import socket
import struct

tries = {
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
    "icmp": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "tcp": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
    "icmp6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3),
    "packet datagrams": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 3),
    "xdp": lambda: socket.socket(44, socket.SOCK_RAW, 0),
    "bluetooth": lambda: socket.socket(31, socket.SOCK_RAW, 1),
    "vsock": lambda: socket.socket(40, socket.SOCK_STREAM).connect((2, 1024)),
    "audit": lambda: socket.socket(16, socket.SOCK_RAW, 9),
    "tun": lambda: fcntl.ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x400454CA, struct.pack("16sH22x", b"t0", 1)),
    "transparent": lambda: socket.socket().setsockopt(socket.SOL_IP, 19, 1),
    "mark": lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1),
    "priority": lambda: socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 7),
    "bigger buffers": lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 32, 1 << 30),
}
for name, act in tries.items():
    try:
        act()
        print("BROKE OUT:", name, flush=True)
    except OSError:
        pass
try:
    ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    ping.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", ("8.8.8.8", 0))
    print("BROKE OUT: a ping left")
except OSError:
    pass
