"""What no run and no problem gets more of on this machine, whatever it asks for: the operator's word."""

import asyncio
from collections.abc import Iterator
from fnmatch import fnmatchcase

import msgspec

from ridges.sandbox_manager.errors import LimitsRefused
from ridges.sandbox_manager.ports import Sandbox, SandboxExit, SandboxSpec
from ridges.sandbox_manager.settings import ManagerSettings


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """Null (or empty) = no ceiling."""

    cpus: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    disk_bytes: int | None = None
    log_chars: int | None = None
    timeout_s: float | None = None
    images: tuple[str, ...] = ()
    """Patterns as of a shell."""
    runtimes: tuple[str, ...] = ()
    """Besides the manager's own: the only ones that may be asked for."""
    networks: tuple[str, ...] = ()

    @classmethod
    def of(cls, chosen: ManagerSettings) -> "Ceilings":
        own = (chosen.docker_runtime,) if chosen.docker_runtime else ()
        return cls(
            cpus=chosen.max_cpus,
            memory_bytes=chosen.max_memory_bytes,
            pids=chosen.max_pids,
            disk_bytes=chosen.max_disk_bytes,
            log_chars=chosen.max_log_chars,
            timeout_s=chosen.max_timeout_s,
            images=chosen.allowed_images,
            runtimes=(*chosen.allowed_runtimes, *own),
            networks=(*chosen.allowed_networks, chosen.docker_network) if chosen.allowed_networks else (),
        )

    def check(self, spec: SandboxSpec, sandbox: str) -> None:
        """Returns when the sandbox may be started.

        It is never started with less than was asked for: its result would say something else than it seems to.

        Raises:
            LimitsRefused: with everything that is too much, and the setting that would allow it.
        """
        over = [*self._over(spec), *self._foreign(spec, sandbox)]
        if over:
            raise LimitsRefused(spec.run_id, "; ".join(over))

    def _over(self, spec: SandboxSpec) -> Iterator[str]:
        limited = ("cpus", "memory_bytes", "pids", "disk_bytes", "log_chars")
        asked = {name: getattr(spec.limits, name) for name in limited}
        for name, value in (asked | {"timeout_s": spec.timeout_s}).items():
            ceiling = getattr(self, name)
            if ceiling is not None and value > ceiling:
                yield f"{name} {value:,} is over {ceiling:,} (RIDGES_MAX_{name.upper()})"

    def _foreign(self, spec: SandboxSpec, sandbox: str) -> Iterator[str]:
        runtime, image = spec.limits.runtime, spec.image
        network = spec.limits.network if spec.kind == "agent" else None
        if runtime and sandbox != "docker":
            yield f"the runtime {runtime} needs the sandbox docker, this machine would use {sandbox}"
        elif runtime and runtime not in self.runtimes:
            yield f"the runtime {runtime} is not allowed (RIDGES_ALLOWED_RUNTIMES)"
        if network == "internal" and sandbox != "docker":
            yield f"the network internal needs the sandbox docker, this machine would use {sandbox}"
        elif network and self.networks and network not in self.networks:
            yield f"the network {network} is not allowed (RIDGES_ALLOWED_NETWORKS)"
        if image and sandbox != "docker":
            yield f"the image {image} needs the sandbox docker, this machine would use {sandbox}"
        elif image and self.images and not any(fnmatchcase(image, pattern) for pattern in self.images):
            yield f"the image {image} is not allowed (RIDGES_ALLOWED_IMAGES)"


class BoundedSandbox:
    """A sandbox technology below the ceilings of this machine."""

    def __init__(self, sandbox: Sandbox, ceilings: Ceilings) -> None:
        self._sandbox, self._ceilings = sandbox, ceilings

    @property
    def name(self) -> str:
        return self._sandbox.name

    async def check(self) -> None:
        """See the port."""
        await self._sandbox.check()

    async def admit(self, spec: SandboxSpec) -> None:
        """See the port."""
        self._ceilings.check(spec, self.name)
        await self._sandbox.admit(spec)

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        """See the port; raises ``LimitsRefused`` besides, before anything is started."""
        self._ceilings.check(spec, self.name)
        return await self._sandbox.run(spec, cancelled)

    async def sweep(self, live: set[str]) -> int:
        """See the port."""
        return await self._sandbox.sweep(live)
