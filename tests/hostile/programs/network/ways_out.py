"""Tries every way out: addresses of hosts and clouds, raw frames, other families, Unix sockets of the host."""

import os
import socket


def broke_out(what):
    print("BROKE OUT:", what, flush=True)


targets = [
    "1.1.1.1",
    "8.8.8.8",
    "169.254.169.254",
    "172.17.0.1",
    "10.0.0.1",
    "192.168.0.1",
    "2606:4700:4700::1111",
    "fe80::1",
]
for target in targets:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as sock:
                sock.settimeout(0.2)
                sock.connect((target, 53))
                broke_out(f"connected to {target}")
        except OSError:
            pass
for family, kind, protocol in (
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
    (socket.AF_PACKET, socket.SOCK_RAW, 3),
    (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    (socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
    (socket.AF_CAN, socket.SOCK_RAW, 1),
    (socket.AF_NETLINK, socket.SOCK_RAW, 15),
):
    try:
        socket.socket(family, kind, protocol).close()
        broke_out(f"socket {family!r} {kind!r}")
    except OSError:
        pass
for path in open("/proc/net/unix").read().split()[8:]:
    if path.startswith(("/", "@")):
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(0.2)
                sock.connect("\0" + path[1:] if path.startswith("@") else path)
                broke_out(f"connected to {path}")
        except OSError:
            pass
try:
    socket.getaddrinfo("example.com", 80)
    broke_out("resolved a name")
except OSError:
    pass
interfaces = sorted(name for _, name in socket.if_nameindex())
if interfaces != ["lo"]:
    broke_out(f"interfaces {interfaces}")
for path in (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
):
    if os.path.exists(path):
        broke_out(f"{path} is here")
