"""``python -m ridges.sandbox_manager.self_check``: which sandboxes work here, and what they guarantee, as JSON."""

import asyncio
import contextlib
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from ridges.chassis import logs, settings
from ridges.contracts.limits import Network
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.docker_engine import DockerSandbox
from ridges.sandbox_manager.errors import SandboxManagerError, SandboxUnavailable
from ridges.sandbox_manager.guarantees import Guarantee, guarantees
from ridges.sandbox_manager.ports import Sandbox
from ridges.sandbox_manager.self_test import echoing

NETWORKS: tuple[Network, ...] = ("socket", "internal")
INTERNAL = "docker internal"
"""Under this name the second of them is told, where Docker works at all."""
_EXIT_BAD_SETTINGS = 2
_LOGS = {"docker": "sudo journalctl -u docker -n 50", "bubblewrap": "sudo dmesg | tail -n 50"}
"""The commands that show why a sandbox broke."""


class SelfCheckSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The sandbox-manager's settings that matter here; none is needed."""

    agent_image: str = "ridges-agent:latest"
    """Docker image of sandboxes whose run names none."""
    agent_python: Path | None = None
    """Interpreter in bubblewrap sandboxes; default: our own."""
    docker_url: str | None = None
    """The Docker Engine; default: DOCKER_HOST, then /var/run/docker.sock."""
    docker_runtime: str | None = None
    """OCI runtime of the sandboxes; default: the engine's."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox technology said about this machine."""

    name: str
    works: bool
    detail: str
    remedy: str | None = None
    guarantees: tuple[Guarantee, ...] = ()
    """Each was put to the test here; empty when no sandbox can be started."""


async def self_check(chosen: SelfCheckSettings) -> list[Checked]:
    """Starts some small sandboxes of each technology. Nothing of them is left."""
    docker, internal = (
        DockerSandbox(
            owner=f"self-check-{uuid.uuid4()}",
            default_image=chosen.agent_image,
            engine_url=chosen.docker_url,
            runtime=chosen.docker_runtime,
            network=network,
        )
        for network in NETWORKS
    )
    bubblewrap = BubblewrapSandbox(python=chosen.agent_python)
    async with contextlib.AsyncExitStack() as resources:
        resources.push_async_callback(docker.close)
        resources.push_async_callback(internal.close)
        resources.callback(bubblewrap.close)
        checked = [await _checked(docker, lambda: f"sandboxes start from the image {chosen.agent_image}")]
        if checked[0].works:
            proxy_dir = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="ridges-"))) / "proxy"
            await resources.enter_async_context(echoing(proxy_dir))
            told = await _checked(internal, lambda: "sandboxes start with a relay beside them", proxy_dir)
            checked.append(msgspec.structs.replace(told, name=INTERNAL))
        apart = await _checked(bubblewrap, lambda: f"sandboxes start, isolated by namespaces, {bubblewrap.manner}")
        return [*checked, apart]


async def _checked(sandbox: Sandbox, good: Callable[[], str], proxy_dir: Path | None = None) -> Checked:
    try:
        await sandbox.check()
    except SandboxUnavailable as error:
        return Checked(name=sandbox.name, works=False, detail=error.reason, remedy=error.remedy)
    try:
        kept = await guarantees(sandbox, proxy_dir)
    except SandboxManagerError as error:
        return Checked(name=sandbox.name, works=False, detail=str(error), remedy=_LOGS[sandbox.name])
    return Checked(name=sandbox.name, works=True, detail=good(), guarantees=kept)


def main() -> int:
    """Prints the list. Exit code 0 whatever it says; 2 when a setting cannot be read."""
    logs.configure("self-check", "console", "error")
    try:
        chosen = settings.load(SelfCheckSettings)
    except settings.SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_BAD_SETTINGS
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(self_check(chosen))) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
