"""What a sandbox has used so far, told from time to time: of one that is lost it is all that anybody knows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from ridges.contracts.events import ExitFacts
from ridges.sandbox_manager.ports import SandboxSpec
from ridges.sandbox_manager.wire import Measured

FIRST_S = 5.0


@contextlib.asynccontextmanager
async def metered(spec: SandboxSpec, measured: Callable[[], Measured | None]) -> AsyncIterator[None]:
    """``spec.on_usage`` is called meanwhile. ``measured``: what there is to tell; None = nothing (yet)."""
    if spec.on_usage is None or not spec.difference_every_s:
        yield
        return
    telling = asyncio.create_task(_tell(spec.on_usage, spec.difference_every_s, measured))
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell(on_usage: Callable[[ExitFacts], None], every_s: float, measured: Callable[[], Measured | None]) -> None:
    now = asyncio.get_running_loop().time
    began, pause_s = now(), min(FIRST_S, every_s)
    while True:
        await asyncio.sleep(pause_s)
        pause_s = every_s
        if seen := measured():
            on_usage(
                ExitFacts(
                    exit_code=None,
                    wall_s=now() - began,
                    cpu_s=seen.cpu_s,
                    peak_memory_bytes=seen.peak_memory_bytes,
                    pids_peak=seen.pids_peak,
                )
            )
