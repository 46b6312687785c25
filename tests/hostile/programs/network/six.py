"""IPv6: link-local and multicast neighbours, routers, mapped and embedded IPv4 addresses."""

import socket

for address in (
    "ff02::1",
    "ff02::2",
    "ff02::fb",
    "fe80::1",
    "fd00::1",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
):
    for index, name in [(0, ""), *socket.if_nameindex()]:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                with socket.socket(socket.AF_INET6, kind) as sock:
                    sock.settimeout(0.2)
                    sock.connect((address, 53, 0, index))
                    sock.send(b"x")
                    if name != "lo":
                        print("BROKE OUT: sent to", address, "by", name or "any interface", flush=True)
            except OSError:
                pass
