"""Recorded replies instead of a model: for offline use, the demo and free regression runs.

A recording answers when the request's first user message contains its ``conversation`` text, it has ``turn`` assistant
messages, and the model is the same; the longest matching text wins. Embeddings that were not recorded are made from a
hash of the input: the same text always gets the same unit vector, which means nothing beyond that.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Any

import msgspec

from ridges.gateway.calls import UNREADABLE
from ridges.gateway.ports import Path, ProviderReply, ProviderTooSlow, Sink
from ridges.gateway.providers_config import ConfigError, Provider

EMBEDDING_SIZE = 256
PIECE_CHARS = 24
"""Text of one streamed chunk."""


class _Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, int] = {}
    completion_tokens_details: dict[str, int] = {}


class _Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a recordings file."""

    conversation: str
    turn: int
    model: str
    message: dict[str, Any]
    usage: _Usage
    latency_ms: int = 0


class _RecordedEmbedding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a recordings file, for embeddings."""

    input: str
    model: str
    embedding: tuple[float, ...]


class _Answer(msgspec.Struct, frozen=True):
    """A recording, fitted to a request."""

    message: dict[str, Any]
    finish_reason: str
    usage: dict[str, Any]
    latency_s: float


class Replay:
    """A provider of recorded replies. Tells 404 for what was not recorded."""

    def __init__(self, provider: Provider) -> None:
        self._name = provider.name
        self._by_turn: dict[tuple[str, int], list[_Recording]] = {}
        self._embeddings: dict[tuple[str, str], tuple[float, ...]] = {}
        for path in provider.recordings:
            self._read(path)

    async def send(
        self,
        path: Path,
        body: bytes,
        timeout_s: float,
        *,
        traceparent: str | None = None,  # noqa: ARG002
    ) -> ProviderReply:
        request = msgspec.json.decode(body)
        if path == "embeddings":
            return self._embedding(request, len(body))
        found = self._find(request)
        if isinstance(found, str):
            return _not_recorded(found)
        answer = _fitted(found, request)
        await _pass_time(answer.latency_s, timeout_s)
        choice = {"index": 0, "message": answer.message, "finish_reason": answer.finish_reason}
        reply = _envelope(request, "chat.completion") | {"choices": [choice], "usage": answer.usage}
        return ProviderReply(status=200, body=msgspec.json.encode(reply))

    @asynccontextmanager
    async def stream(
        self,
        body: bytes,
        timeout_s: float,
        idle_s: float,
        *,
        traceparent: str | None = None,  # noqa: ARG002
    ) -> AsyncIterator["_ReplayStream"]:
        request = msgspec.json.decode(body)
        found = self._find(request)
        if isinstance(found, str):
            yield _ReplayStream(404, _not_recorded(found).body, [], 0.0)
            return
        answer = _fitted(found, request)
        events = [b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in _chunks(request, answer)]
        await _pass_time(answer.latency_s / 2, timeout_s)
        yield _ReplayStream(200, b"", events, min(answer.latency_s / 2, idle_s))

    async def close(self) -> None:
        """Nothing is held."""

    def _read(self, path: FilePath) -> None:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                fields = msgspec.json.decode(line)
                if isinstance(fields, dict) and "embedding" in fields:
                    embedding = msgspec.convert(fields, _RecordedEmbedding)
                    self._embeddings[embedding.model, embedding.input] = embedding.embedding
                else:
                    recording = msgspec.convert(fields, _Recording)
                    self._by_turn.setdefault((recording.model, recording.turn), []).append(recording)
            except UNREADABLE as error:
                raise ConfigError(f"{path}, line {number}: no recording: {error}") from error

    def _find(self, request: dict[str, Any]) -> _Recording | str:
        """The recording, or which one is missing."""
        said, turn = conversation_of(request)
        model = str(request.get("model"))
        matching = [found for found in self._by_turn.get((model, turn), ()) if found.conversation in said]
        if matching:
            return max(matching, key=lambda recording: len(recording.conversation))
        start = " ".join(said.split())[:120]
        return f"turn {turn} of the conversation that starts with {start!r} was not recorded for the model {model}"

    def _embedding(self, request: dict[str, Any], size: int) -> ProviderReply:
        texts = request.get("input")
        texts = texts if isinstance(texts, list) else [texts]
        model = str(request.get("model"))
        rows = [
            {
                "object": "embedding",
                "index": index,
                "embedding": self._embeddings.get((model, str(text))) or pseudo_embedding(str(text)),
            }
            for index, text in enumerate(texts)
        ]
        tokens = -(-size // 4)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        reply = {"object": "list", "model": model, "data": rows, "usage": usage}
        return ProviderReply(status=200, body=msgspec.json.encode(reply))


class _ReplayStream:
    def __init__(self, status: int, body: bytes, events: Sequence[bytes], duration_s: float) -> None:
        self.status = status
        self.retry_after_s: float | None = None
        self._body, self._events, self._duration_s = body, events, duration_s

    async def flow(self, sink: Sink) -> None:
        for event in self._events:
            await asyncio.sleep(self._duration_s / len(self._events))
            sink(event)
        sink(b"data: [DONE]\n\n")

    def pause(self) -> None:
        """A recording is in memory anyway."""

    def resume(self) -> None: ...

    def enough(self) -> None: ...

    async def body(self) -> bytes:
        return self._body


def pseudo_embedding(text: str) -> list[float]:
    """A unit vector of ``EMBEDDING_SIZE`` numbers made from the text's hash: deterministic, without meaning."""
    noise = hashlib.shake_256(text.encode()).digest(EMBEDDING_SIZE * 2)
    raw = [int.from_bytes(noise[i : i + 2], "big") / 32767.5 - 1.0 for i in range(0, len(noise), 2)]
    length = math.sqrt(sum(number * number for number in raw)) or 1.0
    return [round(number / length, 8) for number in raw]


def conversation_of(request: dict[str, Any]) -> tuple[str, int]:
    """(text of the first user message, number of assistant messages): where in which conversation a request stands."""
    messages = _messages(request)
    said = next((_text(message) for message in messages if message.get("role") == "user"), "")
    return said, sum(message.get("role") == "assistant" for message in messages)


def _fitted(recording: _Recording, request: dict[str, Any]) -> _Answer:
    """Cut down to the request's output limit, as a model would stop there."""
    usage, message = recording.usage, {"role": "assistant", "content": None, **recording.message}
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    output = usage.completion_tokens
    details = dict(usage.completion_tokens_details)
    if isinstance(limit, int) and limit < output:
        text = message["content"] or ""
        message = {"role": "assistant", "content": text[: len(text) * limit // output]}
        finish, output = "length", limit
        details = {kind: min(count, limit) for kind, count in details.items()}
    counted = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": usage.prompt_tokens + output,
        "prompt_tokens_details": usage.prompt_tokens_details,
        "completion_tokens_details": details,
    }
    return _Answer(message, finish, counted, recording.latency_ms / 1000)


def _chunks(request: dict[str, Any], answer: _Answer) -> list[dict[str, Any]]:
    head = _envelope(request, "chat.completion.chunk")
    text = answer.message.get("content") or ""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text[start : start + PIECE_CHARS]} for start in range(0, len(text), PIECE_CHARS)]
    calls = answer.message.get("tool_calls") or []
    deltas += [{"tool_calls": [{"index": index, **call}]} for index, call in enumerate(calls)]
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish_reason}]})
    if (request.get("stream_options") or {}).get("include_usage"):
        chunks = [chunk | {"usage": None} for chunk in chunks]
        chunks.append(head | {"choices": [], "usage": answer.usage})
    return chunks


def _envelope(request: dict[str, Any], kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(msgspec.json.encode(request.get("messages"))).hexdigest()
    return {"id": f"chatcmpl-{digest[:24]}", "object": kind, "created": 0, "model": request.get("model")}


def _messages(request: dict[str, Any]) -> list[dict[str, Any]]:
    messages = request.get("messages")
    return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _not_recorded(what: str) -> ProviderReply:
    body = {"error": {"message": f"{what}; record it or ask another provider", "type": "not_recorded"}}
    return ProviderReply(status=404, body=msgspec.json.encode(body))


async def _pass_time(seconds: float, timeout_s: float) -> None:
    await asyncio.sleep(min(seconds, timeout_s))
    if seconds > timeout_s:
        raise ProviderTooSlow(f"no complete answer within {timeout_s:g} s")
