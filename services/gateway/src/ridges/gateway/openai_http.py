"""Any OpenAI-compatible URL: Chutes, Targon, OpenRouter, vLLM, Ollama, llama.cpp …"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp

from ridges.gateway.patience import retry_after_of
from ridges.gateway.ports import Path, ProviderReply, ProviderTooSlow, ProviderUnreachable
from ridges.gateway.providers_config import Provider

KEEPALIVE_S = 30.0
LARGEST_REPLY = 64 * 1024 * 1024
LARGEST_ERROR = 64 * 1024


class OpenAiHttp:
    """One provider over HTTP. Use inside a running event loop; ``close`` it."""

    def __init__(self, provider: Provider) -> None:
        assert provider.base_url is not None
        self._base_url, self._key = provider.base_url, provider.key
        headers = {"Content-Type": "application/json"}
        if provider.key:
            headers["Authorization"] = f"Bearer {provider.key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=provider.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def send(self, path: Path, body: bytes, timeout_s: float) -> ProviderReply:
        try:
            async with asyncio.timeout(timeout_s), self._post(path, body) as response:
                return await self._reply(response)
        except (aiohttp.ServerTimeoutError, aiohttp.ConnectionTimeoutError) as error:
            raise ProviderUnreachable(self._told(error)) from None
        except TimeoutError:
            raise ProviderTooSlow(f"no complete answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnreachable(self._told(error)) from None

    @asynccontextmanager
    async def stream(self, body: bytes, timeout_s: float, idle_s: float) -> AsyncIterator["_HttpStream"]:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._post("chat/completions", body)
        except aiohttp.ServerTimeoutError as error:
            raise ProviderUnreachable(self._told(error)) from None
        except TimeoutError:
            raise ProviderTooSlow(f"no answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnreachable(self._told(error)) from None
        try:
            _watch_silence(response, idle_s)
            yield _HttpStream(self, response, idle_s)
        finally:
            response.close()

    async def close(self) -> None:
        await self._session.close()

    def without_key(self, content: bytes) -> bytes:
        """Some providers repeat the key in their error texts."""
        return content.replace(self._key.encode(), b"***") if self._key else content

    def _post(self, path: Path, body: bytes) -> "aiohttp.client._RequestContextManager":
        return self._session.post(f"{self._base_url}/{path}", data=body, allow_redirects=False)

    async def _reply(self, response: aiohttp.ClientResponse) -> ProviderReply:
        limit = LARGEST_REPLY if response.status == 200 else LARGEST_ERROR
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > limit:
                break
        if size > limit and response.status == 200:
            raise ProviderUnreachable(f"the answer is larger than {LARGEST_REPLY} bytes")
        body = b"".join(parts)[:limit]
        if response.status == 200:
            return ProviderReply(status=200, body=self.without_key(body))
        wait_s = retry_after_of(response.headers, body, datetime.now(UTC))
        return ProviderReply(status=response.status, body=self.without_key(body), retry_after_s=wait_s)

    def _told(self, error: BaseException) -> str:
        text = str(error) or type(error).__name__
        return self.without_key(text.encode()).decode()


class _HttpStream:
    def __init__(self, provider: OpenAiHttp, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._provider, self._response, self._idle_s = provider, response, idle_s
        self.status = response.status
        self.retry_after_s: float | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except TimeoutError:
            raise ProviderTooSlow(f"the stream was silent for {self._idle_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnreachable(f"the stream broke: {error or type(error).__name__}") from None

    async def body(self) -> bytes:
        try:
            content = await self._response.content.read(LARGEST_ERROR)
        except (TimeoutError, aiohttp.ClientError, OSError):
            content = b""
        self.retry_after_s = retry_after_of(self._response.headers, content, datetime.now(UTC))
        return self._provider.without_key(content)


def _watch_silence(response: aiohttp.ClientResponse, idle_s: float) -> None:
    """From now on the connection may be silent for so long only; until here it had the time to the first token."""
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = idle_s
        connection.protocol.start_timeout()
