"""Any OpenAI-compatible URL: Chutes, Targon, OpenRouter, vLLM, Ollama, llama.cpp …"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import aiohttp

from ridges.gateway.delta_redaction import DeltaRedaction
from ridges.gateway.patience import retry_after_of
from ridges.gateway.ports import AnswerCut, Path, ProviderReply, ProviderTooSlow, ProviderUnreachable
from ridges.gateway.providers_config import Provider
from ridges.gateway.redaction import RedactedStream, Redaction

KEEPALIVE_S = 30.0
LARGEST_REPLY = 64 * 1024 * 1024
LARGEST_ERROR = 64 * 1024


class OpenAiHttp:
    """One provider over HTTP. Use inside a running event loop; ``close`` it."""

    def __init__(self, provider: Provider) -> None:
        assert provider.base_url is not None
        self._base_url, self.redaction = provider.base_url, Redaction(provider.key)
        self.delta_redaction = partial(DeltaRedaction, provider.key)
        headers = {"Content-Type": "application/json"}
        if provider.key:
            headers["Authorization"] = f"Bearer {provider.key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=provider.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def send(self, path: Path, body: bytes, timeout_s: float, *, traceparent: str | None = None) -> ProviderReply:
        try:
            async with asyncio.timeout(timeout_s), self._post(path, body, traceparent) as response:
                return await self._reply(response)
        except (aiohttp.ServerTimeoutError, aiohttp.ConnectionTimeoutError) as error:
            raise ProviderUnreachable(self.told(error)) from None
        except TimeoutError:
            raise ProviderTooSlow(f"no complete answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnreachable(self.told(error)) from None

    @asynccontextmanager
    async def stream(
        self, body: bytes, timeout_s: float, idle_s: float, *, traceparent: str | None = None
    ) -> AsyncIterator["_HttpStream"]:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._post("chat/completions", body, traceparent)
        except aiohttp.ServerTimeoutError as error:
            raise ProviderUnreachable(self.told(error)) from None
        except TimeoutError:
            raise ProviderTooSlow(f"no answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnreachable(self.told(error)) from None
        try:
            _watch_silence(response, idle_s)
            yield _HttpStream(self, response, idle_s)
        finally:
            response.close()

    async def close(self) -> None:
        await self._session.close()

    def error_reply(self, response: aiohttp.ClientResponse, content: bytes) -> ProviderReply:
        wait_s = retry_after_of(response.headers, content, datetime.now(UTC))
        body = self.redaction.head(content)[:LARGEST_ERROR]
        return ProviderReply(status=response.status, body=body, retry_after_s=wait_s)

    def told(self, error: BaseException) -> str:
        text = str(error) or type(error).__name__
        return self.redaction.whole(text.encode()).decode()

    def _post(self, path: Path, body: bytes, traceparent: str | None) -> "aiohttp.client._RequestContextManager":
        headers = None if traceparent is None else {"traceparent": traceparent}
        return self._session.post(f"{self._base_url}/{path}", data=body, headers=headers, allow_redirects=False)

    async def _reply(self, response: aiohttp.ClientResponse) -> ProviderReply:
        """Raises AnswerCut: a good answer that does not end, or not within ``LARGEST_REPLY``."""
        good = response.status == 200
        parts: list[bytes] = []
        try:
            whole = await _read(response, parts, LARGEST_REPLY if good else LARGEST_ERROR)
        except (aiohttp.ClientError, OSError) as error:
            if good:
                raise AnswerCut(f"the answer was cut: {self.told(error)}", self._shown(parts)) from None
            whole = False  # the status says enough
        if good and not whole:
            raise AnswerCut(f"the answer is larger than {LARGEST_REPLY} bytes", self._shown(parts))
        content = b"".join(parts)
        if good:
            return ProviderReply(status=200, body=self.redaction.whole(content))
        return self.error_reply(response, content)

    def _shown(self, parts: list[bytes]) -> bytes:
        return self.redaction.head(b"".join(parts))


class _HttpStream:
    def __init__(self, provider: OpenAiHttp, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._provider, self._response, self._idle_s = provider, response, idle_s
        self.status = response.status
        self.retry_after_s: float | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        redacted, deltas = RedactedStream(self._provider.redaction), self._provider.delta_redaction()
        try:
            async for chunk in self._response.content.iter_any():
                if shown := deltas.feed(redacted.feed(chunk)):
                    yield shown
        except TimeoutError:
            raise ProviderTooSlow(f"the stream was silent for {self._idle_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise AnswerCut(f"the stream broke: {self._provider.told(error)}") from None
        if rest := deltas.feed(redacted.rest()) + deltas.rest():
            yield rest

    async def body(self) -> bytes:
        parts: list[bytes] = []
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            await _read(self._response, parts, LARGEST_ERROR)
        reply = self._provider.error_reply(self._response, b"".join(parts))
        self.retry_after_s = reply.retry_after_s
        return reply.body


async def _read(response: aiohttp.ClientResponse, parts: list[bytes], limit: int) -> bool:
    """Fills ``parts`` with the body, some bytes beyond the limit at most. False: there is more."""
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > limit:
            return False
    return True


def _watch_silence(response: aiohttp.ClientResponse, idle_s: float) -> None:
    """From now on the connection may be silent for so long only; until here it had the time to the first token."""
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = idle_s
        connection.protocol.start_timeout()
