"""A sandbox tells about itself: what every isolating adapter must hold before it may run anything."""

import asyncio
import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ridges.contracts.events import SandboxFile
from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.ports import PROXY_SOCKET, PROXY_URL, Sandbox, SandboxExit, SandboxSpec

_TIMEOUT_S = 20

CLAIMS = """
import ctypes, os, shutil
PR_GET_NO_NEW_PRIVS = 39
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
claims = {
    "it runs as uid 1000": os.getuid() == 1000,
    "it has no capabilities": int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0,
    "it cannot gain privileges": ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
    "its system calls are filtered": status["Seccomp"].strip() == "2",
    "it sees no processes but its own": sum(name.isdigit() for name in os.listdir("/proc")) <= 3,
    "it has no network but the loopback": interfaces == ["lo"],
    "its root is read-only": not os.access("/", os.W_OK) and not os.access("/usr", os.W_OK),
    "its workspace is writable": os.access("/sandbox", os.W_OK),
    "git, bash and python3 are there": all(map(shutil.which, ("git", "bash", "python3"))),
}
"""
"""Python that looks at the sandbox it runs in: ``claims`` holds what must be true."""

RELAY_CLAIMS = """
import socket
try:
    with socket.create_connection(os.environ["PROXY"][7:].split(":"), timeout=5) as sock:
        sock.sendall(b"there")
        claims["its relay leads to its proxy and back"] = sock.recv(5) == b"there"
except OSError:
    claims["its relay is reached"] = False
claims["the proxy's own socket is not in it"] = not os.path.exists("/run/ridges")
"""
"""More of them, where a relay shares its network."""

_VERDICT = """
broken = [claim for claim, holds in claims.items() if not holds]
print("; ".join(broken))
raise SystemExit(bool(broken))
"""


async def passes_self_test(
    sandbox: Sandbox,
    remedy: str,
    *,
    errand: str = "",
    files: tuple[bytes, ...] = (),
    outputs: tuple[SandboxFile, ...] = (),
    runtime: str | None = None,
    proxy_dir: Path | None = None,
) -> SandboxExit:
    """What one small sandbox left.

    Args:
        sandbox: the technology.
        remedy: what to do when it does not start or is not tight.
        errand: Python that it does besides, before it looks at itself.
        files: for the errand, as in ``SandboxSpec``.
        outputs: of the errand, likewise.
        runtime: as in ``SandboxLimits``.
        proxy_dir: one that is ``echoing``, for the network mode ``internal``; null = a sandbox without any way out.

    Raises:
        SandboxUnavailable: it does not start, or one of the claims does not hold.
    """
    spec = SandboxSpec(
        sandbox_id=f"check-{uuid.uuid4()}",
        run_id="self-test",
        kind="agent" if proxy_dir else "evaluation",
        files=files,
        command=("python3", "-I", "-S", "-c", errand + CLAIMS + (RELAY_CLAIMS if proxy_dir else "") + _VERDICT),
        outputs=outputs,
        env={"PROXY": PROXY_URL} if proxy_dir else {},
        limits=SandboxLimits(
            memory_bytes=256 * MIB,
            disk_bytes=16 * MIB,
            runtime=runtime,
            network="internal" if proxy_dir else None,
        ),
        timeout_s=_TIMEOUT_S,
        proxy_dir=proxy_dir,
        deadline=datetime.now(UTC) + timedelta(seconds=10 * _TIMEOUT_S),
    )
    particular = [f"runtime {runtime}"] * bool(runtime) + ["network internal"] * bool(proxy_dir)
    technology = f"{sandbox.name} ({', '.join(particular)})" if particular else sandbox.name
    try:
        ended = await sandbox.run(spec, asyncio.Event())
    except SandboxFailed as error:
        raise SandboxUnavailable(f"{technology}: {error.reason}", remedy) from error
    if ended.exit.exit_code != 0:
        said = ended.log.decode().strip()[-500:] or f"exit {ended.exit}"
        raise SandboxUnavailable(
            f"{technology} sandboxes are not as tight as they must be: not true that {said}", remedy
        )
    return ended


@contextlib.asynccontextmanager
async def echoing(directory: Path) -> AsyncIterator[Path]:
    """The directory, made for this, with a socket like a proxy's that answers with what it is told."""
    try:
        async with await asyncio.start_unix_server(_echo, sock=_listener_in(directory)):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _listener_in(directory: Path) -> socket.socket:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    directory.chmod(0o711)
    place = os.open(directory, os.O_PATH)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/proc/self/fd/{place}/{PROXY_SOCKET}")  # its own path may be too long for a socket
    finally:
        os.close(place)
    (directory / PROXY_SOCKET).chmod(0o666)
    return listener


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    writer.close()
