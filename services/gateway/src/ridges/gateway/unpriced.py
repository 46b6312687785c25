"""What a call may ask for that no price here covers: tools that the provider runs, other models, dearer tokens. Pure.

Prices are per token of input and output (or per second). Whatever a provider bills beside them has no price, and what
has no price is refused, as an unknown model price is, unless the provider's table in ridges.toml allows it by name.

Source: what OpenAI, OpenRouter, Perplexity, xAI, Groq, Z.ai, Qwen, Anthropic, Cohere and Azure document as request
fields with charges of their own. Chutes, vLLM, Ollama and llama.cpp bill nothing but tokens or time.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ridges.gateway.calls import UNREADABLE, Fields
from ridges.gateway.errors import BodyInvalid

UNPRICED_FIELDS = frozenset(
    {
        "audio",
        "background",
        "best_of",
        "chat_template",
        "compound_custom",
        "connectors",
        "data_sources",
        "enable_search",
        "extra_body",
        "fallbacks",
        "image_config",
        "inference_geo",
        "mcp_servers",
        "mm_processor_kwargs",
        "modalities",
        "models",
        "plugins",
        "prediction",
        "preset",
        "provider",
        "route",
        "search_options",
        "search_parameters",
        "search_settings",
        "service_tier",
        "speed",
        "web_search_options",
    }
)
"""Fields that change at some providers which model answers, what a token costs, or what is charged beside tokens."""

UNPRICED_PARTS = frozenset({"audio", "audio_url", "document", "file", "input_audio", "input_file"})
"""Parts of a message with a price of their own: sound costs more a token than text, documents cost by the page."""

IN_TOOLS, IN_CONTENT = "tools.", "content."
"""Before the type, in the names of what a call asks for."""

KNOWN = UNPRICED_FIELDS | {IN_CONTENT + part for part in UNPRICED_PARTS}
"""All names but those of tools, which providers invent."""

OWN_TOOLS = frozenset({"function", "custom"})
"""Types of tools that the caller runs; every other one runs at the provider, and is billed by the use."""

_NOTHING = frozenset({b"null", b"false", b"[]", b'""'})
_ORDINARY = {
    "service_tier": frozenset({b'"auto"', b'"default"', b'"standard"', b'"on_demand"'}),
    "speed": frozenset({b'"standard"'}),
    "modalities": frozenset({b'["text"]'}),
    "best_of": frozenset({b"1"}),
}
"""Values that ask for nothing but what a call without the field gets."""


def unpriced_fields(fields: Fields) -> frozenset[str]:
    """Names of the fields that ask for something without a price here; empty nearly always."""
    if UNPRICED_FIELDS.isdisjoint(fields):
        return frozenset()
    return frozenset(name for name in UNPRICED_FIELDS & fields.keys() if not is_ordinary(name, fields[name]))


def is_ordinary(name: str, value: Raw) -> bool:
    """Does the field with this value change nothing?"""
    text = bytes(value)
    if text not in _NOTHING and len(text) < 40:
        text = b"".join(text.split())
    return text in _NOTHING or text in _ORDINARY.get(name, ())


class _Tool(msgspec.Struct):
    type: Any = None
    function: Raw | UnsetType = UNSET


def unpriced_tools(tools: Raw | None) -> frozenset[str]:
    """``tools.<type>`` for every tool in the list that the caller does not run itself.

    Raises:
        BodyInvalid: no list of objects.

    """
    if tools is None or bytes(memoryview(tools)[:4]) == b"null":
        return frozenset()
    try:
        given = msgspec.json.decode(tools, type=list[_Tool])
    except UNREADABLE as error:
        raise BodyInvalid(("body", "tools"), str(error)) from error
    kinds = {_kind(tool) for tool in given}
    return frozenset(IN_TOOLS + kind for kind in kinds - OWN_TOOLS)


def _kind(tool: _Tool) -> str:
    """A tool without a type is one of the caller's own if it says what to call, else it is some provider's."""
    if tool.type is None and tool.function is not UNSET:
        return "function"
    return tool.type[:100] if isinstance(tool.type, str) else "untyped"
