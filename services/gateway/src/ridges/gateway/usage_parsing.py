"""Token usage out of providers' replies. Token kinds come out disjoint. Pure."""

from decimal import Decimal
from typing import Any

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


class _Holder(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Nesting(msgspec.Struct):
    choices: list[_Holder] = []
    x_groq: _Holder | None = None


class _Cost(msgspec.Struct):
    cost: Any = None
    is_byok: bool | None = None


class _CostHolder(msgspec.Struct):
    usage: _Cost | None = None


def parse_usage(raw: msgspec.Raw | bytes | None) -> TokenUsage | None:
    """The usage object of a reply, taken apart; None when it is absent, empty or no sensible count.

    Source: OpenAI reports cached tokens inside prompt tokens and reasoning tokens inside completion tokens; DeepSeek
    calls the first ``prompt_cache_hit_tokens``; xAI reports reasoning tokens beside completion tokens (the total
    tells); some servers speak of input and output tokens, some tell the total and one part of it, some count in
    floats.
    """
    usage = None if raw is None else _decoded(raw)
    if usage is None:
        return None
    prompt = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    completion = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
    total = usage.total_tokens
    if prompt is None and total is not None:
        prompt = total - (completion or 0)
    if prompt is None:
        return None
    if completion is None:
        completion = 0 if total is None else max(0, total - prompt)
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


def usage_in(body: bytes) -> TokenUsage | None:
    """The usage that a reply or a chunk of a stream tells.

    Source: it stands at the top; Moonshot puts it into a choice of the last chunk, Groq into ``x_groq``.
    """
    try:
        usage = parse_usage(msgspec.json.decode(body, type=_Holder).usage)
    except UNREADABLE:
        return None
    return usage or (nested_usage(body) if b'"usage"' in body else None)


def nested_usage(body: bytes) -> TokenUsage | None:
    """Where it does not stand at the top."""
    try:
        nesting = msgspec.json.decode(body, type=_Nesting)
    except UNREADABLE:
        return None
    found = (parse_usage(holder.usage) for holder in (nesting.x_groq, *nesting.choices) if holder is not None)
    return next((usage for usage in found if usage is not None), None)


def reported_cost_nano_usd(answer: bytes) -> int | None:
    """What the provider says it charges, of a whole reply or stream; None where it does not say, or not all.

    Source: OpenRouter's ``usage.cost`` in USD (without the share of a key of one's own, ``is_byok``), Perplexity's
    ``usage.cost.total_cost``.
    """
    if b'"cost"' not in answer:
        return None
    for event in (answer,) if answer[:1] == b"{" else reversed(answer.split(b"\n\n")):
        if b'"cost"' in event and (nano := _cost_in(event.removeprefix(b"data:"))) is not None:
            return nano
    return None


def has_output(usage: TokenUsage | None) -> bool:
    """Does it count anything that the model made? Some providers tell zeros, or the prompt alone, beside a text."""
    return usage is not None and usage.output + usage.reasoning > 0


def _decoded(raw: msgspec.Raw | bytes) -> _Usage | None:
    try:
        return msgspec.json.decode(raw, type=_Usage | None)
    except UNREADABLE:
        pass
    try:
        loose = msgspec.json.decode(raw, type=dict[str, Any])
    except UNREADABLE:
        return None
    counts = {name: _count(loose.get(name)) for name in _Usage.__struct_fields__ if not name.endswith("_details")}
    prompt, completion = (_details(loose, name) for name in ("prompt_tokens_details", "completion_tokens_details"))
    return _Usage(
        **counts,
        prompt_tokens_details=_PromptDetails(_count(prompt.get("cached_tokens"))),
        completion_tokens_details=_CompletionDetails(_count(completion.get("reasoning_tokens"))),
    )


def _details(loose: dict[str, Any], name: str) -> dict[str, Any]:
    found = loose.get(name)
    return found if isinstance(found, dict) else {}


def _count(value: Any) -> int | None:
    """A float that is a whole number is a count; nothing else is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _cost_in(payload: bytes) -> int | None:
    try:
        usage = msgspec.json.decode(payload, type=_CostHolder).usage
    except UNREADABLE:
        return None
    if usage is None or usage.is_byok:
        return None
    cost = usage.cost.get("total_cost") if isinstance(usage.cost, dict) else usage.cost
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < 1e6:
        return None
    return round(Decimal(repr(cost)).scaleb(9))
