"""What a sandbox without an image sees of the host, step by step. Only its temporary file systems are writable.

bwrap gets the steps as arguments; a process of the fork server takes them as they are (``inside.confining``).
"""

from collections.abc import Callable
from pathlib import Path

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.interpreter import Interpreter

HOME = "/home/agent"
PROXY_MOUNT = "/run/ridges"
TEMPORARY = ("/sandbox", "/tmp", HOME, "/dev/shm")  # noqa: S108
"""The temporary file systems inside. Their pages count as memory."""

_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types"),
    *("ssl/certs", "ssl/openssl.cnf", "pki/ca-trust", "pki/tls/certs"),
)
_ETC_FILES = {
    "/etc/passwd": b"root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": b"root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
    "/etc/hosts": b"127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
}
_RESERVE_BYTES = 48 * MIB
"""Memory that no temporary file system may take: the supervisor needs it to hand over the result."""

Step = tuple[object, ...]
"""("bind", source, target, must exist), ("link", text, path), ("dir", path), ("tmpfs", path, mode, bytes), ("proc",),
("dev",), ("file", path, content), ("seal", path: becomes read-only). Missing parents are made."""


def mount_steps(
    interpreter: Interpreter, read_only: tuple[Path, ...], limits: SandboxLimits, proxy_dir: Path | None
) -> tuple[Step, ...]:
    """The whole tree, in order. Whatever is bound is read-only, its submounts too."""
    steps: list[Step] = [("bind", "/usr", "/usr", True)]
    for name in _TOP_LEVEL:
        path = Path("/", name)
        if path.is_symlink():
            steps.append(("link", str(path.readlink()), str(path)))
        elif path.is_dir():
            steps.append(("bind", str(path), str(path), True))
    steps += [("dir", "/etc"), *(("bind", f"/etc/{name}", f"/etc/{name}", False) for name in _ETC)]
    # some switches of its own namespaces would be writable: all of /proc/sys is read-only
    steps += [("proc",), ("bind", "/proc/sys", "/proc/sys", True), ("dev",)]
    for mount, size in zip(TEMPORARY, temporary_sizes(limits), strict=True):
        steps.append(("tmpfs", mount, 0o1777 if mount == "/tmp" else 0o755, size))  # noqa: S108
    steps += [("dir", "/var"), ("link", "/tmp", "/var/tmp"), ("dir", "/root"), ("dir", "/run")]  # noqa: S108
    steps += (("bind", str(path), str(path), True) for path in outermost((*interpreter.prefixes, *read_only)))
    steps += (("link", target, link) for target, link in interpreter.links)
    if proxy_dir:
        steps.append(("bind", str(proxy_dir), PROXY_MOUNT, True))
    steps += (("file", path, content) for path, content in _ETC_FILES.items())
    # last of all: both are made of memory without limit
    return (*steps, ("seal", "/dev"), ("seal", "/"))


def bwrap_arguments(
    steps: tuple[Step, ...], reachable: Callable[[Path], Path], with_content: Callable[[bytes], str]
) -> list[str]:
    """The steps as arguments of bwrap.

    Args:
        steps: from ``mount_steps``.
        reachable: where bwrap finds a source.
        with_content: the number of a descriptor to read a content from.
    """
    return [argument for step in steps for argument in _arguments(step, reachable, with_content)]


def _arguments(step: Step, reachable: Callable[[Path], Path], with_content: Callable[[bytes], str]) -> tuple[str, ...]:
    match step:
        case "bind", str(source), str(target), True:
            return "--ro-bind", str(reachable(Path(source))), target
        case "bind", str(source), str(target), _:
            return "--ro-bind-try", source, target
        case "link", str(text), str(path):
            return "--symlink", text, path
        case "dir", str(path):
            return "--perms", "0755", "--dir", path
        case "tmpfs", str(path), int(mode), size:
            return "--perms", f"{mode:04o}", "--size", str(size), "--tmpfs", path
        case ("proc",):
            return "--proc", "/proc"
        case ("dev",):
            return "--dev", "/dev"
        case "file", str(path), bytes(content):
            return "--perms", "0644", "--file", with_content(content), path
        case "seal", str(path):
            return "--remount-ro", path
    raise AssertionError(step)


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
