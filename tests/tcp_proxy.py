"""A TCP proxy that can lose what the server answers: for tests of lost acknowledgements."""

import asyncio
from contextlib import suppress
from typing import Self


class TcpProxy:
    """Forwards to a port of this machine. ``lose_answer_to(b"HPUB ev.")`` arms it once."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._trigger: bytes | None = None
        self.triggered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self._server: asyncio.Server | None = None
        self._flows: set[asyncio.Task] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_exc) -> None:
        assert self._server is not None
        self._server.close()
        self.open.set()
        for flow in tuple(self._flows):
            flow.cancel()
        await asyncio.gather(*self._flows, return_exceptions=True)

    def lose_answer_to(self, trigger: bytes) -> None:
        """The next bytes that hold the trigger still reach the server; then the connection breaks before any answer."""
        self._trigger = trigger
        self.triggered.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._flows.add(task)
        try:
            await self.open.wait()
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            answering = asyncio.create_task(self._copy(onward_reader, writer))
            try:
                await self._forward(reader, onward_writer, answering)
            finally:
                answering.cancel()
                onward_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._flows.discard(task)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answering: asyncio.Task
    ) -> None:
        while content := await reader.read(1 << 20):
            losing = self._trigger is not None and self._trigger in content
            if losing:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
            writer.write(content)
            await writer.drain()
            if losing:
                self._trigger = None
                await asyncio.sleep(0.1)  # the server has stored it by now
                self.triggered.set()
                return

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while content := await reader.read(1 << 20):
                writer.write(content)
                await writer.drain()
