"""Reads and writes in /proc and /sys what tells about, or belongs to, the host."""

import glob
import os

for path in (
    *("/proc/kcore", "/proc/kmem", "/proc/kpagecount", "/proc/kpageflags", "/proc/timer_list", "/proc/sched_debug"),
    *("/proc/sysrq-trigger", "/proc/mtrr", "/proc/latency_stats", "/proc/kmsg", "/proc/vmallocinfo", "/proc/slabinfo"),
    *("/proc/iomem", "/proc/ioports", "/proc/1/environ", "/proc/1/cmdline_", "/sys/kernel/security", "/sys/firmware/efi"),
    *("/sys/kernel/debug", "/sys/kernel/tracing", "/sys/fs/pstore", "/sys/module/kernel/sections/.text"),
):
    try:
        found = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(64)
    except OSError:
        continue
    text = found if isinstance(found, bytes) else b" ".join(map(str.encode, found))
    if text.strip(b"0 \n-:") and path not in ("/proc/iomem", "/proc/ioports"):
        print("BROKE OUT: read", path, text[:40], flush=True)
try:
    with open("/proc/kallsyms") as symbols:
        if int(symbols.readline().split()[0], 16):
            print("BROKE OUT: addresses of the kernel")
except OSError:
    pass
switches = [path for path in glob.glob("/proc/sys/**", recursive=True) if os.path.isfile(path)]
switches += [path for path in glob.glob("/sys/**/*", recursive=False) if os.path.isfile(path)]
switches += ["/proc/self/attr/current", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/proc/scsi/scsi"]
for path in switches:
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError:
        continue
    if path != "/proc/self/attr/current":
        print("BROKE OUT: can write", path, flush=True)
print("tried", len(switches), flush=True)
