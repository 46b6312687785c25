"""Token usage out of providers' replies, and estimates where there is none. Token kinds come out disjoint."""

from typing import Any

import msgspec

from ridges.contracts.usage import TokenUsage
from ridges.gateway.calls import UNREADABLE, Fields

BYTES_PER_TOKEN = 4
"""Of ordinary English and code. Used for charging only where a provider gave no usage; marked as an estimate."""
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


def parse_usage(raw: msgspec.Raw | bytes | None) -> TokenUsage | None:
    """The usage object of a reply, taken apart; None when it is absent, empty or no sensible count.

    Source: OpenAI reports cached tokens inside prompt tokens and reasoning tokens inside completion tokens; DeepSeek
    calls the first ``prompt_cache_hit_tokens``; xAI reports reasoning tokens beside completion tokens (the total
    tells).
    """
    if raw is None:
        return None
    try:
        usage = msgspec.json.decode(raw, type=_Usage | None)
    except UNREADABLE:
        return None
    if usage is None or usage.prompt_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens or 0
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


def estimated_tokens(content_bytes: int) -> int:
    """A fair guess for charging, rounded up."""
    return -(-content_bytes // BYTES_PER_TOKEN)


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
