"""How many tokens a prompt can have at most, for reservations, and how many it has by a fair guess. Pure."""

from typing import Any

import msgspec
from msgspec import Raw

from ridges.gateway.calls import UNREADABLE, Fields, Media, ModelCall
from ridges.gateway.errors import BodyInvalid
from ridges.gateway.token_estimate import PER_MESSAGE, count_tokens
from ridges.gateway.unpriced import IN_CONTENT, UNPRICED_PARTS

TEMPLATE_TOKENS = 128
"""What chat templates add beyond what the JSON around the messages takes: a date, a role, how to answer (gpt-oss)."""
TOOLS_TOKENS = 600
"""What a model is told of how to call tools, once there are any. Source: Anthropic, up to 530 tokens."""
MEASURED_BY_BYTES = frozenset({"text", "refusal"})
"""Parts of a message that hold all of what the model reads: no tokenizer makes more tokens than there are bytes."""
USUAL_SHARE = 3
"""An image usually takes a third of the most that it can take."""


class _Message(msgspec.Struct):
    content: Raw = Raw(b"null")


def media_in(messages: Raw) -> Media:
    """What the messages hold beside text.

    Raises:
        BodyInvalid: no list of objects, or a content that is neither text nor a list of parts.

    """
    try:
        contents = [message.content for message in msgspec.json.decode(messages, type=list[_Message])]
    except UNREADABLE as error:
        raise BodyInvalid(("body", "messages"), str(error)) from error
    if not contents:
        raise BodyInvalid(("body", "messages"), "must hold at least one message")
    images = image_bytes = others = 0
    unpriced = set[str]()
    for number, content in enumerate(contents):
        first = bytes(memoryview(content)[:1])
        if first in (b'"', b"n"):
            continue
        for part in _parts(content, number):
            kind = part.get("type", "image_url" if "image_url" in part else "text")
            if kind == "image_url":
                images += 1
                image_bytes += _url_bytes(part)
            elif not isinstance(kind, str) or kind not in MEASURED_BY_BYTES:
                others += 1
                if isinstance(kind, str) and kind in UNPRICED_PARTS:
                    unpriced.add(IN_CONTENT + kind)
    return Media(images=images, image_bytes=image_bytes, others=others, unpriced=frozenset(unpriced))


def check_input(encoded: Raw) -> None:
    """What is to be embedded: text, texts, tokens, or lists of tokens.

    Raises:
        BodyInvalid: anything else.

    """
    try:
        msgspec.json.decode(encoded, type=str | list[str | int | list[int]])
    except UNREADABLE as error:
        raise BodyInvalid(("body", "input"), str(error)) from error


def most_prompt_tokens(call: ModelCall, image_tokens: int) -> int | None:
    """An upper bound; None where only the model's context bounds it (the provider fetches or decodes a part)."""
    media = call.media
    if media.others:
        return None
    fields = sum(len(name) + memoryview(value).nbytes for name, value in call.fields.items())
    added = TEMPLATE_TOKENS + (TOOLS_TOKENS if "tools" in call.fields or "functions" in call.fields else 0)
    return fields + added + media.images * image_tokens - media.image_bytes


def estimated_prompt_tokens(call: ModelCall, image_tokens: int) -> int:
    """A fair guess for charging: the text of messages and tools, or of what is to be embedded."""
    if "input" in call.fields:
        return _input_tokens(_decoded(call.fields, "input"))
    messages = _decoded(call.fields, "messages")
    tokens = sum(PER_MESSAGE + _message_tokens(m) for m in (messages if isinstance(messages, list) else ()))
    tools = bytes(call.fields.get("tools", b""))
    media_tokens = (call.media.images + call.media.others) * image_tokens // USUAL_SHARE
    return tokens + count_tokens(tools.decode(errors="replace")) + media_tokens


def _parts(content: Raw, number: int) -> list[dict[str, Any]]:
    """The parts of a content that are objects; plain texts among them are measured by their bytes."""
    try:
        parts = msgspec.json.decode(content, type=list[str | dict[str, Any]])
    except UNREADABLE as error:
        raise BodyInvalid(("body", "messages", number, "content"), str(error)) from error
    return [part for part in parts if isinstance(part, dict)]


def _url_bytes(part: dict[str, Any]) -> int:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return len(url.encode(errors="replace")) if isinstance(url, str) else 0


def _input_tokens(given: Any) -> int:
    """Text is guessed; token ids are counted."""
    if isinstance(given, list):
        return sum(map(_input_tokens, given))
    return count_tokens(given) if isinstance(given, str) else int(isinstance(given, int))


def _message_tokens(message: Any) -> int:
    if not isinstance(message, dict):
        return 0
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    tokens = sum(count_tokens(text) for text in texts if isinstance(text, str))
    calls = message.get("tool_calls")
    return tokens + (count_tokens(msgspec.json.encode(calls).decode()) if calls else 0)


def _decoded(fields: Fields, name: str) -> Any:
    try:
        return msgspec.json.decode(fields.get(name, b"null"))
    except UNREADABLE:
        return None
