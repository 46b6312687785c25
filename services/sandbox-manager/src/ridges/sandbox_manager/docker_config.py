"""One sandbox as a container: the body of the Engine API's create request. Pure: every flag of the sandbox is here."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.ports import PROXY_SOCKET, WORKSPACE, SandboxSpec

USER_ID = 1000
HOME = "/home/agent"
HOSTNAME = "sandbox"
PROXY_MOUNT = "/run/ridges"
PROXY_SOCKET_PATH = f"{PROXY_MOUNT}/{PROXY_SOCKET}"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RELAY_PORT = 61_190
"""On the loopback of a fresh network, above the ports that the kernel gives away."""
RELAY_URL = f"http://127.0.0.1:{RELAY_PORT}"
OWNER_LABEL, RUN_LABEL = "ridges.owner", "ridges.run"
SANDBOX_LABEL, DEADLINE_LABEL = "ridges.sandbox", "ridges.deadline"
HOSTS = f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n"
"""What the sandboxes find in /etc/hosts: the engine writes none for a container whose network it does not manage."""
MAX_OPEN_FILES = 4096
_SHM_BYTES = 64 * MIB
_LEAST_INODES, _BYTES_PER_INODE = 20_000, 8192
"""A file costs about 1.5 KiB of memory however empty it is: files of all kinds stay below half of the limit."""
_RELAY_USER_ID = 1001
"""Not the sandbox's: neither may trouble the other by what the kernel counts per user."""
_RELAY_MEMORY_BYTES, _RELAY_CPUS, _RELAY_PIDS, _RELAY_FILES = 128 * MIB, 0.5, 16, 1024
_OWNED = f"rw,exec,nosuid,nodev,mode=0755,uid={USER_ID},gid={USER_ID}"
_STRAY_BYTES = 16 * MIB
"""For places that an image declares as volumes: never a volume on the host's disk."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of an image."""

    image_id: str
    """``sha256:…``: containers are made from this, whatever the name means by then."""
    path: str
    """Its PATH."""
    volumes: tuple[str, ...]


def image_of(inspected: Mapping[str, Any]) -> Image:
    """From the engine's description."""
    config = inspected.get("Config") or {}
    env = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    return Image(
        image_id=inspected["Id"],
        path=env.get("PATH") or DEFAULT_PATH,
        volumes=tuple(sorted(config.get("Volumes") or ())),
    )


def command_env(spec: SandboxSpec, image: Image) -> dict[str, str]:
    """The command's whole environment."""
    return {"PATH": image.path, "HOME": HOME, "LANG": "C.UTF-8", "TMPDIR": "/tmp", **spec.env}  # noqa: S108 - its own


def command_rlimits(limits: SandboxLimits) -> dict[str, int]:
    """Never NPROC: it counts processes of the uid over the whole host."""
    return {"NOFILE": MAX_OPEN_FILES, "CORE": 0, "FSIZE": limits.disk_bytes, "MSGQUEUE": 0}


def container_config(
    spec: SandboxSpec,
    command: tuple[str, ...],
    image: Image,
    *,
    owner: str,
    engine_cpus: int,
    hosts_file: Path,
    proxy_dir: Path | None,
    runtime: str | None,
    relay: str | None = None,
) -> dict[str, Any]:
    """The create request.

    Args:
        spec: the sandbox.
        command: the supervisor's.
        image: from ``image_of``.
        owner: installation id, for sweeps.
        engine_cpus: the engine refuses to promise more than it has.
        hosts_file: a file with ``HOSTS`` as the engine sees it.
        proxy_dir: ``spec.proxy_dir`` as the engine sees it.
        runtime: OCI runtime; null = the engine's default.
        relay: the container whose network it shares, and with it the hostname; null = an empty network of its own.
    """
    limits = spec.limits
    host = _hardened(runtime) | {
        "NetworkMode": f"container:{relay}" if relay else "none",
        "IpcMode": "private",
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": int(min(limits.cpus, engine_cpus) * 1e9),
        "PidsLimit": limits.pids,
        "ShmSize": min(_SHM_BYTES, limits.memory_bytes // 32),
        "Tmpfs": _temporary_file_systems(limits, image),
        "Ulimits": _ulimits(command_rlimits(limits)),
        "Mounts": [_mount(hosts_file, "/etc/hosts")] + ([_mount(proxy_dir, PROXY_MOUNT)] if proxy_dir else []),
    }
    body = _conversing(spec, command, image, owner) | {
        "User": f"{USER_ID}:{USER_ID}",
        "WorkingDir": WORKSPACE,
        "HostConfig": host,
    }
    return body if relay else body | _EMPTY_NETWORK


def relay_config(
    spec: SandboxSpec, command: tuple[str, ...], image: Image, *, owner: str, proxy_dir: Path, runtime: str | None
) -> dict[str, Any]:
    """The create request of the container that holds a sandbox's network, and its way to the proxy.

    Args:
        spec: the sandbox.
        command: the relay's.
        image: never the run's own choice: this container is ours.
        owner: installation id, for sweeps.
        proxy_dir: ``spec.proxy_dir`` as the engine sees it.
        runtime: OCI runtime; null = the engine's default.
    """
    host = _hardened(runtime) | {
        "NetworkMode": "none",
        "IpcMode": "none",
        "Memory": _RELAY_MEMORY_BYTES,
        "MemorySwap": _RELAY_MEMORY_BYTES,
        "NanoCpus": int(_RELAY_CPUS * 1e9),
        "PidsLimit": _RELAY_PIDS,
        "Tmpfs": _stray(image),
        "Ulimits": _ulimits({"NOFILE": _RELAY_FILES, "CORE": 0, "FSIZE": 0}),
        "Mounts": [_mount(proxy_dir, PROXY_MOUNT)],
    }
    body = _conversing(spec, command, image, owner) | _EMPTY_NETWORK
    return body | {"User": f"{_RELAY_USER_ID}:{_RELAY_USER_ID}", "WorkingDir": "/", "HostConfig": host}


_EMPTY_NETWORK = {
    "Hostname": HOSTNAME,
    "NetworkDisabled": True,  # the runtime makes an empty network; the engine would take 100 ms for the same
}


def _hardened(runtime: str | None) -> dict[str, Any]:
    """What holds for every container of ours."""
    hardened: dict[str, Any] = {
        "AutoRemove": False,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Init": False,
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
    }
    return hardened | ({"Runtime": runtime} if runtime else {})


def _conversing(spec: SandboxSpec, command: tuple[str, ...], image: Image, owner: str) -> dict[str, Any]:
    """A first process that is spoken with on its streams, and the marks of the sandbox that it is there for."""
    return {
        "Image": image.image_id,
        "Entrypoint": [command[0]],
        "Cmd": list(command[1:]),
        "Env": [],
        "Labels": labels(spec.run_id, spec.sandbox_id, owner, spec.deadline),
        "Healthcheck": {"Test": ["NONE"]},
        "Tty": False,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
    }


def labels(run_id: str, sandbox_id: str, owner: str, deadline: datetime) -> dict[str, str]:
    return {
        OWNER_LABEL: owner,
        RUN_LABEL: run_id,
        SANDBOX_LABEL: sandbox_id,
        DEADLINE_LABEL: deadline.isoformat(timespec="seconds"),
    }


def _temporary_file_systems(limits: SandboxLimits, image: Image) -> dict[str, str]:
    """Their pages count against the memory limit: this is the disk quota.

    Together they stay below the limit, so that full ones make writes fail instead of getting the whole sandbox killed,
    its result included.
    """
    half, quarter, eighth = (min(limits.disk_bytes, limits.memory_bytes // part) for part in (2, 4, 8))
    inodes = f"nr_inodes={max(_LEAST_INODES, limits.memory_bytes // _BYTES_PER_INODE)}"
    return _stray(image) | {
        WORKSPACE: f"{_OWNED},size={half},{inodes}",
        HOME: f"{_OWNED},size={eighth},{inodes}",
        "/dev/mqueue": "ro,noexec,nosuid,nodev,size=4096",
        "/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={quarter},{inodes}",  # noqa: S108 - the sandbox's own
    }


def _stray(image: Image) -> dict[str, str]:
    return dict.fromkeys(image.volumes, f"{_OWNED},size={_STRAY_BYTES}")


def _ulimits(limits: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"Name": name.lower(), "Soft": value, "Hard": value} for name, value in limits.items()]


def _mount(source: Path, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}
