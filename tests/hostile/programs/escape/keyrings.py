"""Reads, joins and fills keyrings: they belong to a uid, not to a sandbox."""

import ctypes
import platform

add_key, request_key, keyctl = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
for ring in (-1, -2, -3, -4, -5):
    for name, arguments in (("get", (0, ring, 1)), ("describe", (6, ring, None, 0)), ("read", (11, ring, None, 0))):
        if libc.syscall(keyctl, *arguments) >= 0:
            print("BROKE OUT:", name, ring, flush=True)
    if libc.syscall(add_key, b"user", b"evil", b"x", 1, ring) >= 0:
        print("BROKE OUT: added a key to", ring, flush=True)
if libc.syscall(keyctl, 1, b"evil") >= 0:
    print("BROKE OUT: joined a session")
if libc.syscall(request_key, b"user", b"evil", None, -3) >= 0:
    print("BROKE OUT: requested a key")
try:
    if open("/proc/keys").read():
        print("BROKE OUT: sees keys")
except OSError:
    pass
