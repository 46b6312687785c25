"""Token usage out of providers' replies, and estimates where there is none. Token kinds come out disjoint."""

from typing import Any

import msgspec

from ridges.contracts.usage import TokenUsage
from ridges.gateway.calls import UNREADABLE, Fields
from ridges.gateway.token_estimate import PER_MESSAGE, count_tokens

TOKENS_PER_SECOND = 50
"""Assumed speed of a provider whose buffered answer was not waited for."""
TOKENS_PER_IMAGE = 3_000
"""Upper bound for an image at the usual providers."""
TEMPLATE_TOKENS = 16
"""What chat templates add beyond what the JSON around the messages takes."""
MAX_TOKENS = 2**40


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def parse_usage(raw: msgspec.Raw | bytes | None) -> TokenUsage | None:
    """The usage object of a reply, taken apart; None when it is absent, empty or no sensible count.

    Source: OpenAI reports cached tokens inside prompt tokens and reasoning tokens inside completion tokens; DeepSeek
    calls the first ``prompt_cache_hit_tokens``; xAI reports reasoning tokens beside completion tokens (the total
    tells); some servers speak of input and output tokens.
    """
    if raw is None:
        return None
    try:
        usage = msgspec.json.decode(raw, type=_Usage | None)
    except UNREADABLE:
        return None
    if usage is None:
        return None
    prompt = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    completion = (usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens) or 0
    if prompt is None:
        return None
    cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
    cached = cached or usage.prompt_cache_hit_tokens or 0
    reasoning = (usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens) or 0
    if not all(0 <= count <= MAX_TOKENS for count in (prompt, completion, cached, reasoning)):
        return None
    beside = reasoning > completion or (reasoning and usage.total_tokens == prompt + completion + reasoning)
    return TokenUsage(
        input=max(0, prompt - cached),
        cached_input=min(cached, prompt),
        output=completion if beside else completion - reasoning,
        reasoning=reasoning,
    )


def most_prompt_tokens(fields: Fields) -> int:
    """An upper bound of the prompt's tokens: no tokenizer makes more tokens than there are bytes, images apart."""
    most = sum(len(name) + memoryview(value).nbytes for name, value in fields.items()) + TEMPLATE_TOKENS
    messages = bytes(fields.get("messages", b""))
    if b'"image_url"' in messages:
        image_bytes, images = _images(messages)
        most += images * TOKENS_PER_IMAGE - image_bytes
    return most


def estimated_prompt_tokens(fields: Fields) -> int:
    """A fair guess for charging: the text of messages and tools, or of what is to be embedded."""
    if "input" in fields:
        inputs = _decoded(fields, "input")
        return sum(count_tokens(text) for text in (inputs if isinstance(inputs, list) else [inputs]) if _is_text(text))
    messages = _decoded(fields, "messages")
    tokens = sum(PER_MESSAGE + _message_tokens(m) for m in (messages if isinstance(messages, list) else ()))
    tools = bytes(fields.get("tools", b""))
    return tokens + count_tokens(tools.decode(errors="replace"))


def _message_tokens(message: Any) -> int:
    if not isinstance(message, dict):
        return 0
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    tokens = 0
    for part in parts:
        if isinstance(part, dict):
            tokens += TOKENS_PER_IMAGE // 3 if "image_url" in part else 0
            tokens += count_tokens(part["text"]) if _is_text(part.get("text")) else 0
    calls = message.get("tool_calls")
    return tokens + (count_tokens(msgspec.json.encode(calls).decode()) if calls else 0)


def _decoded(fields: Fields, name: str) -> Any:
    try:
        return msgspec.json.decode(fields.get(name, b"null"))
    except UNREADABLE:
        return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _images(encoded_messages: bytes) -> tuple[int, int]:
    """(bytes of image URLs, number of images) in the messages."""
    image_bytes = images = 0
    try:
        messages: Any = msgspec.json.decode(encoded_messages)
    except UNREADABLE:
        return 0, 0
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            image = part.get("image_url") if isinstance(part, dict) else None
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str):
                images += 1
                image_bytes += len(url.encode())
    return image_bytes, images
