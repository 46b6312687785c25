"""Any OpenAI-compatible URL: Chutes, Targon, OpenRouter, vLLM, Ollama, llama.cpp …"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial

from ridges.gateway.delta_redaction import DeltaRedaction
from ridges.gateway.patience import retry_after_of
from ridges.gateway.ports import AnswerCut, Path, ProviderReply, ProviderTooSlow, ProviderUnreachable, Sink
from ridges.gateway.provider_connections import AnswerTooLarge, Exchange, ProviderConnections, Silence
from ridges.gateway.providers_config import Provider
from ridges.gateway.redaction import RedactedStream, Redaction
from ridges.gateway.sse import LineEnds

LARGEST_REPLY = 64 * 1024 * 1024
LARGEST_ERROR = 64 * 1024


class OpenAiHttp:
    """One provider over HTTP. Use inside a running event loop; ``close`` it."""

    def __init__(self, provider: Provider) -> None:
        assert provider.base_url is not None
        self.redaction = Redaction(provider.key)
        self.delta_redaction = partial(DeltaRedaction, provider.key)
        headers = {"Content-Type": "application/json"}
        if provider.key:
            headers["Authorization"] = f"Bearer {provider.key}"
        self._connections = ProviderConnections(provider.base_url, headers, provider.connect_timeout_s)

    async def send(self, path: Path, body: bytes, timeout_s: float, *, traceparent: str | None = None) -> ProviderReply:
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await self._post(path, body, traceparent)
                try:
                    return await self._reply(exchange)
                finally:
                    exchange.leave()
        except TimeoutError:
            raise ProviderTooSlow(f"no complete answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ProviderUnreachable(self.told(error)) from None

    @asynccontextmanager
    async def stream(
        self, body: bytes, timeout_s: float, idle_s: float, *, traceparent: str | None = None
    ) -> AsyncIterator["_HttpStream"]:
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await self._post("chat/completions", body, traceparent)
        except TimeoutError:
            raise ProviderTooSlow(f"no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ProviderUnreachable(self.told(error)) from None
        stream = _HttpStream(self, exchange, idle_s)
        try:
            yield stream
        finally:
            exchange.leave(whole=stream.whole)

    async def close(self) -> None:
        await self._connections.close()

    def error_reply(self, exchange: Exchange, content: bytes) -> ProviderReply:
        wait_s = retry_after_of(exchange.headers, content, datetime.now(UTC))
        body = self.redaction.head(content)[:LARGEST_ERROR]
        return ProviderReply(status=exchange.status, body=body, retry_after_s=wait_s)

    def told(self, error: BaseException) -> str:
        text = str(error) or type(error).__name__
        return self.redaction.whole(text.encode()).decode()

    async def _post(self, path: Path, body: bytes, traceparent: str | None) -> Exchange:
        return await self._connections.post(path, body, {} if traceparent is None else {"traceparent": traceparent})

    async def _reply(self, exchange: Exchange) -> ProviderReply:
        """Raises AnswerCut: a good answer that does not end, or not within ``LARGEST_REPLY``."""
        good = exchange.status == 200
        parts: list[bytes] = []
        try:
            await exchange.read(parts, LARGEST_REPLY if good else LARGEST_ERROR)
        except AnswerTooLarge as error:
            if good:
                raise AnswerCut(str(error), self._shown(parts)) from None
        except OSError as error:
            if good:
                raise AnswerCut(f"the answer was cut: {self.told(error)}", self._shown(parts)) from None
        content = b"".join(parts)  # of an error perhaps not all: the status says enough
        if good:
            return ProviderReply(status=200, body=self.redaction.whole(content))
        return self.error_reply(exchange, content)

    def _shown(self, parts: list[bytes]) -> bytes:
        return self.redaction.head(b"".join(parts))


class _HttpStream:
    def __init__(self, provider: OpenAiHttp, exchange: Exchange, idle_s: float) -> None:
        self._provider, self._exchange, self._idle_s = provider, exchange, idle_s
        self.status = exchange.status
        self.retry_after_s: float | None = None
        self.whole = False
        self.pause, self.resume = exchange.pause, exchange.resume
        exchange.watch_silence(idle_s)

    async def flow(self, sink: Sink) -> None:
        ends, redacted, deltas = LineEnds(), RedactedStream(self._provider.redaction), self._provider.delta_redaction()

        def take(piece: bytes) -> None:
            if shown := deltas.feed(redacted.feed(ends.feed(piece))):
                sink(shown)

        try:
            await self._exchange.flow(take)
        except Silence:
            raise ProviderTooSlow(f"the stream was silent for {self._idle_s:g} s") from None
        except OSError as error:
            raise AnswerCut(f"the stream broke: {self._provider.told(error)}") from None
        if rest := deltas.feed(redacted.rest()) + deltas.rest():
            sink(rest)

    def enough(self) -> None:
        self.whole = True

    async def body(self) -> bytes:
        parts: list[bytes] = []
        with suppress(Silence, OSError):
            await self._exchange.read(parts, LARGEST_ERROR)
        reply = self._provider.error_reply(self._exchange, b"".join(parts))
        self.retry_after_s = reply.retry_after_s
        return reply.body
