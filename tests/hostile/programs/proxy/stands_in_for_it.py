"""Wants to be the proxy itself, or to find another way to it: its port, its socket, its names, its neighbours."""

import os
import socket
import stat

host, port = os.environ["SANDBOX_PROXY_URL"].removeprefix("http://").split(":")
port = int(port)
CALL = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def call():
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(CALL)
        return sock.recv(15)


print("honest call:", call().decode(), flush=True)
mine = []
for family, address in (
    *((socket.AF_INET, address) for address in (host, "0.0.0.0", "")),
    *((socket.AF_INET6, address) for address in ("::", "::1", "::ffff:" + host)),
):
    for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sock = socket.socket(family)
        sock.settimeout(0.05)
        try:
            if option is not None:
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((address, port))
            sock.listen()
            mine.append(sock)
        except OSError:
            sock.close()
for _ in range(20):
    call()
for sock in mine:  # at other addresses than the proxy's, at most: nobody is sent there
    try:
        sock.accept()
        print("BROKE OUT: took a call at", sock.getsockname(), flush=True)
    except OSError:
        pass
    sock.close()
for family, address in (
    *((socket.AF_INET, f"127.{n}.{n}.{m}") for n in (0, 1, 255) for m in (2, 3, 254)),
    *((socket.AF_INET6, address) for address in ("::1", "fe80::1")),
    *((socket.AF_INET, f"172.17.0.{n}") for n in range(1, 6)),
):
    with socket.socket(family) as sock:
        sock.settimeout(0.2)
        if sock.connect_ex((address, port)) == 0 and sock.getpeername() != sock.getsockname():
            print("BROKE OUT: somebody listens at", address, flush=True)
with open("/proc/net/unix") as table:
    names = {line.split()[7] for line in table.read().splitlines()[1:] if len(line.split()) > 7}
for name in names - {"/run/ridges/proxy.sock"}:
    with socket.socket(socket.AF_UNIX) as sock:
        if sock.connect_ex("\0" + name[1:] if name.startswith("@") else name) == 0:
            print("BROKE OUT: another socket", name, flush=True)
for top in ("/run", "/var/run", "/tmp", "/sandbox", "/var/lib", "/dev"):
    for folder, _, files in os.walk(top):
        for path in (os.path.join(folder, name) for name in files):
            if stat.S_ISSOCK(os.lstat(path).st_mode) and path != "/run/ridges/proxy.sock":
                print("BROKE OUT: a socket in a file", path, flush=True)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/cmdline") as line:
            words = line.read()
    except OSError:
        continue
    if "relay" in words:
        print("BROKE OUT: sees who relays", words, flush=True)
print("honest call:", call().decode(), flush=True)
