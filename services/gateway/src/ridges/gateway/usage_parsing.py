"""Token usage out of providers' replies. Token kinds come out disjoint. Pure."""

import msgspec

from ridges.contracts.usage import TokenUsage
from ridges.gateway.calls import UNREADABLE

TOKENS_PER_SECOND = 50
"""Assumed speed of a provider whose buffered answer was not waited for."""
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


def has_output(usage: TokenUsage | None) -> bool:
    """Does it count anything that the model made? Some providers tell zeros, or the prompt alone, beside a text."""
    return usage is not None and usage.output + usage.reasoning > 0
