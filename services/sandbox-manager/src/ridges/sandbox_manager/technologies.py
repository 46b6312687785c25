"""Which sandbox technology a run gets."""

import asyncio
from collections.abc import Mapping

from ridges.chassis.ports import Clock
from ridges.contracts.limits import Network
from ridges.sandbox_manager.errors import SandboxManagerError, SandboxUnavailable
from ridges.sandbox_manager.ports import Sandbox

AUTO = "auto"
CONTAINERS = "docker"
_AUTO_ORDER = ("docker", "bubblewrap")
"""``process`` is never chosen by itself."""
_TRUST_S = {True: 30.0, False: 3.0}
"""How long the result of a self-test (passed, failed) is believed."""


class ProcessNotAllowed(SandboxManagerError):
    """Somebody asked for the sandbox that isolates nothing. Never retried."""

    def __init__(self) -> None:
        super().__init__(
            "the sandbox 'process' isolates nothing and is not allowed here; for agents you wrote yourself start the "
            "sandbox-manager with RIDGES_ALLOW_PROCESS=true (embedded: ridges down; ridges up --sandbox process)"
        )


class Technologies:
    """The adapters of this manager, and which of them work."""

    def __init__(self, adapters: Mapping[str, Sandbox], preferred: str, clock: Clock) -> None:
        self._adapters, self._preferred, self._clock = dict(adapters), preferred, clock
        self._checked: dict[str, tuple[float, SandboxManagerError | None]] = {}
        self._testing: dict[str, asyncio.Task[SandboxManagerError | None]] = {}

    async def pick(
        self,
        requested: str,
        *,
        image: str | None = None,
        runtime: str | None = None,
        network: Network | None = None,
    ) -> Sandbox:
        """The adapter for a run, found fit.

        Args:
            requested: ``auto`` or a name.
            image: that it needs. Of what ``auto`` stands for, only Docker has images, runtimes, and relays.
            runtime: likewise.
            network: likewise; ``internal`` is a relay.

        Raises:
            SandboxUnavailable: none; with what each of them needs.
            ProcessNotAllowed: asked for ``process``, which the settings forbid.
        """
        problems = []
        needs_containers = requested == AUTO and (image or runtime or network == "internal")
        for name in self._candidates(CONTAINERS if needs_containers else requested):
            problem = await self._problem(name)
            if problem is None:
                return self._adapters[name]
            problems.append(problem)
        if len(problems) == 1:
            raise problems[0]
        raise SandboxUnavailable(
            "; ".join(f"{name}: {problem}" for name, problem in zip(_AUTO_ORDER, problems, strict=True)),
            "mend one of them",
        )

    async def candidates(self) -> dict[str, SandboxManagerError | None]:
        """What a run that asks for nothing particular may get, best first, each with what is wrong with it."""
        return {name: await self._problem(name) for name in self._candidates(AUTO)}

    async def check(self) -> None:
        """For /readyz: raises what ``pick`` raises for a run that asks for nothing particular."""
        await self.pick(AUTO)

    def distrust(self, name: str) -> None:
        """It just failed to start a sandbox: test it before the next one, so that runs wait instead of failing."""
        self._checked.pop(name, None)

    async def sweep(self, live: set[str]) -> int:
        """Removes leftovers of every technology that answers; how many."""
        removed = 0
        for adapter in self._adapters.values():
            try:
                removed += await adapter.sweep(live)
            except SandboxUnavailable:
                continue
        return removed

    async def close(self) -> None:
        """Ends self-tests that nobody waits for any more."""
        testing = tuple(self._testing.values())
        for test in testing:
            test.cancel()
        await asyncio.gather(*testing, return_exceptions=True)

    def _candidates(self, requested: str) -> tuple[str, ...]:
        wanted = self._preferred if requested == AUTO else requested
        return _AUTO_ORDER if wanted == AUTO else (wanted,)

    async def _problem(self, name: str) -> SandboxManagerError | None:
        checked_at, problem = self._checked.get(name, (float("-inf"), None))
        if self._clock.monotonic() - checked_at <= _TRUST_S[problem is None]:
            return problem
        if name not in self._testing:
            self._testing[name] = asyncio.create_task(self._tested(name), name=f"self-test of {name}")
        return await asyncio.shield(self._testing[name])  # /readyz waits two seconds; on a busy machine it takes longer

    async def _tested(self, name: str) -> SandboxManagerError | None:
        try:
            problem = await self._test(name)
            self._checked[name] = (self._clock.monotonic(), problem)
            return problem
        finally:
            del self._testing[name]

    async def _test(self, name: str) -> SandboxManagerError | None:
        adapter = self._adapters.get(name)
        if adapter is None and name == "process":
            return ProcessNotAllowed()
        if adapter is None:
            return SandboxUnavailable(
                f"this manager has no sandbox {name!r}", f"choose one of {', '.join(self._adapters)}"
            )
        try:
            await adapter.check()
        except SandboxManagerError as error:
            return error
        return None
