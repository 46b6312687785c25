"""Writes down what a provider answers, one JSON object a line, in the form that ``replay`` reads."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from ridges.chassis.ports import Clock
from ridges.gateway.calls import UNREADABLE
from ridges.gateway.ports import ModelProvider, Path, ProviderReply, ProviderStream, Sink
from ridges.gateway.providers_config import ConfigError, Provider
from ridges.gateway.replay import conversation_of
from ridges.gateway.sse import events_of

log = structlog.get_logger(__name__)


class Recording:
    """A provider whose good answers are kept. Errors, and answers to a question asked before, are not."""

    def __init__(self, provider: Provider, open_inner: Callable[[], ModelProvider], clock: Clock) -> None:
        assert provider.record is not None
        self._path, self._clock = provider.record, clock
        self._public_names = {model.served: model.name for model in reversed(provider.models)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            self._known = {_identity(line) for line in self._path.read_bytes().splitlines() if line.strip()}
        except (OSError, *UNREADABLE) as error:
            raise ConfigError(f"{self._path}: cannot be recorded to: {error}") from error
        self._inner = open_inner()

    async def send(self, path: Path, body: bytes, timeout_s: float, *, traceparent: str | None = None) -> ProviderReply:
        began_at = self._clock.monotonic()
        reply = await self._inner.send(path, body, timeout_s, traceparent=traceparent)
        if reply.status == 200:
            self._keep(path, body, reply.body, began_at)
        return reply

    @asynccontextmanager
    async def stream(
        self, body: bytes, timeout_s: float, idle_s: float, *, traceparent: str | None = None
    ) -> AsyncIterator[ProviderStream]:
        began_at = self._clock.monotonic()
        async with self._inner.stream(body, timeout_s, idle_s, traceparent=traceparent) as upstream:
            listening = _Listening(upstream)
            try:
                yield listening
            finally:
                if upstream.status == 200:
                    self._keep("chat/completions", body, b"".join(listening.heard), began_at, streamed=True)

    async def close(self) -> None:
        await self._inner.close()

    def _keep(self, path: Path, body: bytes, reply: bytes, began_at: float, *, streamed: bool = False) -> None:
        """One more line. A failure is logged: it must not fail the call."""
        try:
            request, answer = msgspec.json.decode(body), whole_reply(reply) if streamed else msgspec.json.decode(reply)
            if answer is None:
                return
            model = self._public_names.get(request["model"], request["model"])
            if path == "embeddings":
                lines = list(_embedding_lines(request, answer, model))
            else:
                latency_ms = int((self._clock.monotonic() - began_at) * 1000)
                lines = [_chat_line(request, answer, model) | {"latency_ms": latency_ms}]
            self._write([line for line in lines if _identity(msgspec.json.encode(line)) not in self._known])
        except (OSError, KeyError, IndexError, TypeError, AttributeError, *UNREADABLE) as error:
            log.warning("an answer could not be recorded", file=str(self._path), error=repr(error))

    def _write(self, lines: list[dict[str, Any]]) -> None:
        encoded = [msgspec.json.encode(line) for line in lines]
        with self._path.open("ab") as file:
            file.writelines(line + b"\n" for line in encoded)
        self._known.update(_identity(line) for line in encoded)


class _Listening:
    """A stream that is passed on and kept."""

    def __init__(self, upstream: ProviderStream) -> None:
        self._upstream = upstream
        self.pause, self.resume, self.enough = upstream.pause, upstream.resume, upstream.enough
        self.status = upstream.status
        self.retry_after_s: float | None = None
        self.heard: list[bytes] = []

    async def flow(self, sink: Sink) -> None:
        def listen(piece: bytes) -> None:
            self.heard.append(piece)
            sink(piece)

        await self._upstream.flow(listen)

    async def body(self) -> bytes:
        content = await self._upstream.body()
        self.retry_after_s = self._upstream.retry_after_s
        return content


def whole_reply(stream: bytes) -> dict[str, Any] | None:
    """The buffered form of a streamed answer's first choice; None when the stream is not whole."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    usage, finish = None, None
    for payload in events_of(stream):
        chunk = msgspec.json.decode(payload)
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                finish = choice.get("finish_reason") or finish
                _add_delta(message, calls, choice.get("delta") or {})
    if finish is None:
        return None
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"choices": [choice], "usage": usage}


def _add_delta(message: dict[str, Any], calls: dict[int, dict[str, Any]], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for place, part in enumerate(value or ()):
                call = calls.setdefault(part.get("index", place), {"id": None, "type": "function", "function": {}})
                call["id"] = part.get("id") or call["id"]
                for key, text in (part.get("function") or {}).items():
                    call["function"][key] = call["function"].get(key, "") + (text or "")
        elif isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value


def _chat_line(request: dict[str, Any], answer: dict[str, Any], model: str) -> dict[str, Any]:
    conversation, turn = conversation_of(request)
    message = {name: value for name, value in answer["choices"][0]["message"].items() if name != "role" and value}
    return {
        "conversation": conversation,
        "turn": turn,
        "model": model,
        "message": {"content": None} | message,
        "usage": _recorded_usage(answer.get("usage")),
    }


def _embedding_lines(request: dict[str, Any], answer: dict[str, Any], model: str) -> list[dict[str, Any]]:
    texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
    rows = [row["embedding"] for row in answer["data"]]
    pairs = zip(texts, rows, strict=True) if len(texts) == len(rows) else ()
    return [{"input": text, "model": model, "embedding": row} for text, row in pairs if isinstance(text, str)]


def _recorded_usage(usage: dict[str, Any] | None) -> dict[str, Any]:
    usage = usage or {}
    told: dict[str, Any] = {name: usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = {kind: count for kind, count in (usage.get(name) or {}).items() if isinstance(count, int) and count}
        told |= {name: details} if details else {}
    return told


def _identity(line: bytes) -> tuple[Any, ...]:
    fields = msgspec.json.decode(line)
    return tuple(fields.get(name) for name in ("model", "conversation", "turn", "input"))
