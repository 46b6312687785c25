"""Asks for a cloud's metadata, by every address it is known under."""

import socket
import urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for url in (
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://192.0.0.192/latest/",
    "http://0xa9fea9fe/latest/",
    "http://2852039166/latest/",
):
    try:
        opener.open(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"}), timeout=0.3)
        print("BROKE OUT:", url, flush=True)
    except (OSError, ValueError):
        pass
try:
    socket.gethostbyname("metadata.google.internal")
    print("BROKE OUT: resolved")
except OSError:
    pass
