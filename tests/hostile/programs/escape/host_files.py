"""Looks for what belongs to the host: secrets, homes, devices, kernel switches, other processes."""

import os


def broke_out(what):
    print("BROKE OUT:", what, flush=True)


for path in (
    *("/etc/shadow", "/etc/ssh", "/etc/sudoers", "/etc/machine-id", "/root/.ssh", "/root/.bashrc"),
    *(
        "/var/lib/docker",
        "/var/run/docker.sock",
        "/boot",
        "/home/agent/.ssh",
        "/mnt",
        "/srv",
        "/sys/kernel/debug",
    ),
    *(
        "/dev/mem",
        "/dev/kmsg",
        "/dev/sda",
        "/dev/vda",
        "/dev/nvme0",
        "/dev/kvm",
        "/dev/fuse",
        "/dev/net/tun",
        "/dev/mapper/control",
    ),
):
    try:
        found = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
    except OSError:
        continue
    if found:
        broke_out(f"read {path}: {found[:5]!r}")
for path in (
    *("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname"),
    *("/proc/sys/user/max_user_namespaces", "/sys/power/state", "/proc/1/oom_score_adj"),
    *("/etc/passwd", "/usr/bin/python3", "/bin/sh", "/lib/x", "/usr/local/bin/x", "/run/x", "/x", "/dev/x"),
):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        broke_out(f"can write {path}")
    except OSError:
        pass
try:
    os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0))
    broke_out("made a device")
except OSError:
    pass
others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
if len(others) > 1:
    broke_out(f"sees processes {others}")
for variable in os.environ:
    if any(word in variable for word in ("TOKEN", "SECRET", "PASSWORD", "NATS", "AWS_")):
        broke_out(f"variable {variable}")
for path in ("/etc/hostname", "/proc/sys/kernel/hostname"):
    try:
        if open(path).read().strip() != "sandbox":
            broke_out(f"the name of the host in {path}: {open(path).read()!r}")
    except OSError:
        pass
for name in ("syslog", "messages", "auth.log", "kern.log", "journal", "dmesg", "dpkg.log", "nginx"):
    try:
        broke_out(f"read the log {name}: {open('/var/log/' + name, 'rb').read(10)}")
    except OSError:
        pass
