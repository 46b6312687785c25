"""A run's relay: the container that holds its network in the mode ``internal``, and the way to its proxy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ridges.sandbox_manager.docker_talk import STDOUT, pieces
from ridges.sandbox_manager.engine_api import EngineApi
from ridges.sandbox_manager.errors import SandboxFailed
from ridges.sandbox_manager.inside import relay_program
from ridges.sandbox_manager.unix_http import Streams

_START_S = 30.0
_MAX_WORDS = 4096


class Relay:
    """One that was created."""

    def __init__(self, engine: EngineApi, name: str, run_id: str, streams: Streams) -> None:
        self.name = name
        self._engine, self._run_id = engine, run_id
        self._reader, self._writer = streams
        self._words = bytearray()
        self._listens = asyncio.Event()
        self._life = asyncio.create_task(self._live())

    async def serves(self) -> None:
        """Returns when it listens.

        Raises:
            SandboxFailed: it will not.
        """
        listens = asyncio.create_task(self._listens.wait())
        await asyncio.wait((listens, self._life), timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
        listens.cancel()
        if self._listens.is_set():
            return
        problem = self._life.exception() if self._life.done() else None
        raise SandboxFailed(self._run_id, f"its relay did not start: {problem or self._said}") from problem

    async def outlives(self, work: asyncio.Task[None]) -> bool:
        """Returns when the first of them has ended: whether that was the work."""
        await asyncio.wait((work, self._life), return_when=asyncio.FIRST_COMPLETED)
        return work.done()

    def ended(self, exit_code: int | None) -> SandboxFailed:
        """What a sandbox has to say that goes on without it."""
        return SandboxFailed(self._run_id, f"its relay ended with exit code {exit_code}: {self._said}")

    async def close(self) -> None:
        """It is no longer looked after; its stdin ends with its streams, and it with that."""
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    async def _live(self) -> None:
        """Until its streams end."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(relay_program())
            await self._writer.drain()
        await self._engine.start(self.name)
        async for stream, piece in pieces(self._reader):
            if stream == STDOUT:
                self._listens.set()
            else:
                self._words += piece
                del self._words[:-_MAX_WORDS]

    @property
    def _said(self) -> str:
        return self._words.decode(errors="replace").strip() or "it said nothing"


@contextlib.asynccontextmanager
async def relaying(engine: EngineApi, config: Mapping[str, Any], name: str, run_id: str) -> AsyncIterator[Relay]:
    """Created when the block begins, started beside it, told to end when it ends; to remove it is left to the caller.

    Raises:
        SandboxUnavailable: the engine does not make it.
    """
    await engine.create(config, name)
    async with engine.attached(name) as streams:
        relay = Relay(engine, name, run_id, streams)
        try:
            yield relay
        finally:
            await relay.close()
