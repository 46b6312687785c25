"""Looks for a sibling that listens."""

import os
import socket
import time

end = time.monotonic() + 3
while time.monotonic() < end:
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", 46001)),
        (socket.AF_INET6, ("::1", 46002)),
        (socket.AF_UNIX, "\0ridges-sibling"),
        *((socket.AF_UNIX, f"{place}/sibling") for place in ("/tmp", "/dev/shm", os.path.expanduser("~"))),
    ):
        try:
            with socket.socket(family) as sock:
                sock.settimeout(0.2)
                sock.connect(address)
                print("BROKE OUT: reached a sibling at", repr(address), flush=True)
        except OSError:
            pass
    time.sleep(0.2)
