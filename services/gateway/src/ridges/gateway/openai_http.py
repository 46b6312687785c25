"""Any OpenAI-compatible URL: Chutes, Targon, OpenRouter, vLLM, Ollama, llama.cpp …"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from ridges.gateway.ports import Path, ProviderReply, ProviderTooSlow, ProviderUnreachable
from ridges.gateway.providers_config import Provider

CONNECT_TIMEOUT_S = 10.0
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
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
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
                response = await self._post("chat/completions", body, idle_s)
        except aiohttp.ServerTimeoutError as error:
            raise ProviderUnreachable(self._told(error)) from None
        except TimeoutError:
            raise ProviderTooSlow(f"no answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnreachable(self._told(error)) from None
        try:
            yield _HttpStream(self, response, idle_s)
        finally:
            response.close()

    async def close(self) -> None:
        await self._session.close()

    def without_key(self, content: bytes) -> bytes:
        """Some providers repeat the key in their error texts."""
        return content.replace(self._key.encode(), b"***") if self._key else content

    def _post(self, path: Path, body: bytes, idle_s: float | None = None) -> "aiohttp.client._RequestContextManager":
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_s)
        return self._session.post(f"{self._base_url}/{path}", data=body, timeout=timeout, allow_redirects=False)

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
        return ProviderReply(
            status=response.status,
            body=self.without_key(b"".join(parts)[:limit]),
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC)),
        )

    def _told(self, error: BaseException) -> str:
        text = str(error) or type(error).__name__
        return self.without_key(text.encode()).decode()


class _HttpStream:
    def __init__(self, provider: OpenAiHttp, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._provider, self._response, self._idle_s = provider, response, idle_s
        self.status = response.status
        self.retry_after_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))

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
        return self._provider.without_key(content)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date. Source: RFC 9110, 10.2.3."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
