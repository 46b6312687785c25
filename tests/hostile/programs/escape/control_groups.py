"""Takes hold of control groups: release agents, limits, other groups."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
os.makedirs("/tmp/cg", exist_ok=True)
for kind, options in ((b"cgroup", b"memory"), (b"cgroup", b"rdma"), (b"cgroup", b"none,name=evil"), (b"cgroup2", b"")):
    if libc.mount(b"none", b"/tmp/cg", kind, 0, options) == 0:
        print("BROKE OUT: mounted", kind, options)
for top, directories, files in os.walk("/sys/fs/cgroup"):
    for name in files:
        if name in ("release_agent", "notify_on_release", "cgroup.procs", "tasks", "pids.max", "memory.max") or name.endswith(
            ("limit_in_bytes", "cfs_quota_us", "devices.allow")
        ):
            try:
                os.close(os.open(os.path.join(top, name), os.O_WRONLY))
                print("BROKE OUT: can write", top, name, flush=True)
            except OSError:
                pass
    try:
        os.mkdir(os.path.join(top, "evil"))
        print("BROKE OUT: made a group in", top, flush=True)
    except OSError:
        pass
