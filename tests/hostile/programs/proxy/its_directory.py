"""Goes for the directory of its socket: other sockets beside it, writing, renaming, replacing."""

import os
import socket

host, port = os.environ["SANDBOX_PROXY_URL"].removeprefix("http://").split(":")


def say(raw, patience=1.5):
    """What comes back for these bytes, until the proxy closes or patience ends."""
    got = b""
    try:
        with socket.create_connection((host, int(port)), timeout=patience) as sock:
            sock.sendall(raw)
            while piece := sock.recv(65536):
                got += piece
    except OSError as error:
        return got or repr(error).encode()
    return got


import stat

for directory in ("/run/ridges", "/run", "/var/run", "/tmp", "/sandbox"):
    try:
        names = os.listdir(directory)
    except OSError:
        continue
    for name in names:
        path = os.path.join(directory, name)
        if stat.S_ISSOCK(os.lstat(path).st_mode) and path != "/run/ridges/proxy.sock":
            print("BROKE OUT: another socket", path, flush=True)
for act in (
    lambda: os.unlink("/run/ridges/proxy.sock"),
    lambda: os.rename("/run/ridges/proxy.sock", "/run/ridges/x"),
    lambda: open("/run/ridges/x", "w"),
    lambda: os.chmod("/run/ridges/proxy.sock", 0),
    lambda: os.chmod("/run/ridges", 0o777),
    lambda: os.link("/run/ridges/proxy.sock", "/sandbox/x"),
    lambda: os.listdir("/run/ridges/../../host"),
):
    try:
        act()
        print("BROKE OUT: changed the proxy's directory", flush=True)
    except OSError:
        pass
