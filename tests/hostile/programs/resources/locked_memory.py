"""Locks memory and asks for huge pages and more limits than it was given."""

import ctypes
import mmap
import resource

libc = ctypes.CDLL(None, use_errno=True)
try:
    hoard = mmap.mmap(-1, 256 << 20)
    if libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(hoard))), 256 << 20) == 0:
        print("BROKE OUT: locked 256 MiB")
except (OSError, MemoryError):
    pass
for name in ("NOFILE", "NPROC", "FSIZE", "MEMLOCK", "CORE", "MSGQUEUE", "RTPRIO", "NICE"):
    kind = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        continue
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
        print("BROKE OUT: raised", name)
    except (OSError, ValueError):
        pass
