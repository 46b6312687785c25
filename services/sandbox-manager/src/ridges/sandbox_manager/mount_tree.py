"""What a bubblewrap sandbox sees of the host, as arguments for bwrap. Only its temporary file systems are writable."""

from pathlib import Path

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.interpreter import Interpreter
from ridges.sandbox_manager.staging import Stage

HOME = "/home/agent"
PROXY_MOUNT = "/run/ridges"
TEMPORARY = ("/sandbox", "/tmp", HOME, "/dev/shm")  # noqa: S108
"""The temporary file systems inside. Their pages count as memory."""

_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types"),
    *("ssl/certs", "ssl/openssl.cnf", "pki/ca-trust", "pki/tls/certs"),
)
ETC_FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_MODES = {"/tmp": "1777"}  # noqa: S108
_RESERVE_BYTES = 48 * MIB
"""Memory that no temporary file system may take: the supervisor needs it to hand over the result."""


def mount_arguments(
    stage: Stage, interpreter: Interpreter, read_only: tuple[Path, ...], limits: SandboxLimits, proxy_dir: Path | None
) -> list[str]:
    """Arguments of bwrap for the file system, without ``ETC_FILES``, which need descriptors."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in _TOP_LEVEL:
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--perms", "0755", "--dir", "/etc"]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    # some switches of its own namespaces would be writable: all of /proc/sys is read-only
    arguments += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    for mount, size in zip(TEMPORARY, temporary_sizes(limits), strict=True):
        arguments += ["--perms", _MODES.get(mount, "0755"), "--size", str(size), "--tmpfs", mount]
    arguments += ["--dir", "/var", "--symlink", "/tmp", "/var/tmp", "--dir", "/root", "--dir", "/run"]  # noqa: S108
    for path in outermost((*interpreter.prefixes, *read_only)):
        arguments += ["--ro-bind", str(stage.reachable(path)), str(path)]
    for target, link in interpreter.links:
        arguments += ["--symlink", target, link]
    if proxy_dir:
        arguments += ["--ro-bind", str(stage.reachable(proxy_dir)), PROXY_MOUNT]
    return arguments


def sealing_arguments() -> list[str]:
    """Last of all: the root and /dev, which bwrap makes of memory without limit, become read-only."""
    return ["--remount-ro", "/dev", "--remount-ro", "/"]


def temporary_sizes(limits: SandboxLimits) -> tuple[int, ...]:
    """Bytes for each of ``TEMPORARY``: all of them full still leave the reserve within the memory limit."""
    budget = limits.memory_bytes - _RESERVE_BYTES
    workspace = min(limits.disk_bytes, budget * 5 // 8)
    return workspace, budget // 5, budget // 10, budget // 20


def outermost(paths: tuple[Path, ...]) -> list[Path]:
    """Without duplicates and without what lies below another one of them; parents come first."""
    chosen: list[Path] = []
    for path in sorted(set(paths), key=lambda path: len(path.parts)):
        if not any(path.is_relative_to(other) for other in chosen):
            chosen.append(path)
    return chosen
