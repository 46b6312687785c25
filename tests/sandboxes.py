"""Sandbox specs for tests, and what is left of a sandbox on this machine."""

import asyncio
import contextlib
import io
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from ridges.contracts.events import SandboxFile
from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.ports import PROXY_SOCKET, Sandbox, SandboxExit, SandboxSpec

MARK = "TEST_SANDBOX_MARK"
SMALL = SandboxLimits(memory_bytes=512 * MIB, disk_bytes=32 * MIB, pids=128, log_chars=100_000)


def tar_of(
    files: dict[str, bytes | str], *, executable: tuple[str, ...] = (), symlinks: dict[str, str] | None = None
) -> bytes:
    """A tar of regular files (and symlinks)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            raw = content.encode() if isinstance(content, str) else content
            entry.size, entry.mode = len(raw), 0o755 if name in executable else 0o644
            tar.addfile(entry, io.BytesIO(raw))
        for name, target in (symlinks or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def sandbox_spec(*command: str, outputs: dict[str, int] | None = None, **changes) -> SandboxSpec:
    """A sandbox that runs a command; ``changes`` are fields of SandboxSpec."""
    fields = {
        "sandbox_id": str(uuid4()),
        "run_id": str(uuid4()),
        "kind": "agent",
        "files": (),
        "command": command,
        "env": {},
        "limits": SMALL,
        "timeout_s": 20,
        "outputs": tuple(SandboxFile(path=path, max_bytes=size) for path, size in (outputs or {}).items()),
        "deadline": datetime.now(UTC) + timedelta(minutes=5),
    } | changes
    fields["env"] = {MARK: fields["sandbox_id"]} | fields["env"]
    return SandboxSpec(**fields)


class Relayed:
    """A sandbox technology whose sandboxes all have a proxy, and so a relay where the network is ``internal``."""

    def __init__(self, sandbox: Sandbox, proxy_dir: Path) -> None:
        self._sandbox, self._proxy_dir = sandbox, proxy_dir

    def __getattr__(self, name: str) -> object:
        return getattr(self._sandbox, name)

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        spec = msgspec.structs.replace(spec, proxy_dir=spec.proxy_dir or self._proxy_dir)
        return await self._sandbox.run(spec, cancelled)


def python(text: str) -> tuple[str, ...]:
    """The command that runs a Python text."""
    return ("python3", "-c", text)


def processes_of(spec: SandboxSpec) -> list[str]:
    """Command lines of living processes that carry the sandbox's mark in their environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={spec.sandbox_id}".encode() in (directory / "environ").read_bytes():
                found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return found


def control_groups_of(spec: SandboxSpec) -> list[Path]:
    """Directories of its control groups; others may come and go meanwhile."""
    tops = (Path(top) for top, _, _ in os.walk("/sys/fs/cgroup"))
    return [top for top in tops if spec.sandbox_id in top.name]


async def gone(spec: SandboxSpec) -> None:
    """Fails unless nothing of the sandbox is left. Killed processes may need a moment to vanish."""
    for _ in range(50):
        left = [*processes_of(spec), *map(str, control_groups_of(spec))]
        if not left:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"left behind: {left}")


@pytest.fixture(scope="session")
def bubblewrap_works():
    """Skips where this machine forbids user namespaces; in CI that is a failure."""
    try:
        asyncio.run(BubblewrapSandbox().check())
    except SandboxUnavailable as error:
        if os.environ.get("RIDGES_REQUIRE_DOCKER") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture
async def proxy_dir(tmp_path):
    """A directory with a socket behind which an echo server streams back what it gets."""
    directory = tmp_path / "proxy"
    directory.mkdir()
    directory.chmod(0o755)

    async def echo(reader, writer):
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()
        writer.close()

    server = await asyncio.start_unix_server(echo, directory / PROXY_SOCKET)
    (directory / PROXY_SOCKET).chmod(0o666)
    yield directory
    server.close()
