"""A model call on its way: the same shape for every dialect, and the body that a provider gets of it."""

import re
from typing import Literal

import msgspec
from msgspec import Raw

from ridges.contracts.blobs import digest_of
from ridges.gateway.errors import Kind


class MalformedReply(Exception):
    """A provider's 200 that holds no answer."""


Fields = dict[str, Raw]
"""Top-level fields of an OpenAI-style body, each still encoded: what the gateway need not read passes on untouched."""


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding foreign JSON can raise: no JSON, another shape, no UTF-8, nested too deeply."""


LimitField = Literal["max_tokens", "max_completion_tokens"]
LIMIT_FIELDS: tuple[LimitField, ...] = ("max_tokens", "max_completion_tokens")
"""Two names of one thing: a provider that obeyed another one than we write could make more than is reserved."""


class Media(msgspec.Struct, frozen=True):
    """What a prompt holds beside text."""

    images: int = 0
    image_bytes: int = 0
    """Of their URLs, which may hold the images themselves."""
    others: int = 0
    """Sound, films, files and what we do not know: nothing in the request bounds their tokens."""
    unpriced: frozenset[str] = frozenset()
    """``content.<type>`` of parts that are not priced as tokens of text."""


class ModelCall(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants, in OpenAI terms."""

    kind: Kind
    model: str
    """Public name."""
    fields: Fields
    received: bytes
    """The caller's body, for the record."""
    streamed: bool = False
    keep_usage: bool = False
    """The caller of a stream asked for the usage itself."""
    answers: int = 1
    output_tokens: int | None = None
    """The caller's own limit for each answer."""
    media: Media = Media()
    unpriced: frozenset[str] = frozenset()
    """What it asks for that no price covers: fields, ``tools.<type>``, ``content.<type>``."""
    idempotency_key: str | None = None
    traceparent: str | None = None
    """W3C trace context of the caller."""

    def digest(self) -> str:
        """What an idempotency key stands for: the caller's very bytes, and what they were meant as."""
        return digest_of(self.kind.encode() + b"\n" + self.received)


def upstream_body(call: ModelCall, served: str, output_limit: int | None, limit_field: LimitField) -> bytes:
    """The body for one provider: its own model name, usage always asked for, and the output limit where there is one.

    The limit stands in the one field that this provider obeys, whatever fields the caller used.
    """
    fields = dict(call.fields)
    fields["model"] = encoded(served)
    if output_limit is not None:
        for name in LIMIT_FIELDS:
            fields.pop(name, None)
        fields[limit_field] = encoded(output_limit)
    if call.streamed:
        options = msgspec.json.decode(fields.get("stream_options", Raw(b"null")), type=Fields | None) or {}
        fields["stream_options"] = encoded(options | {"include_usage": Raw(b"true")})
    return msgspec.json.encode(fields)


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def known_trace(header: str | None) -> str | None:
    """A well-formed ``traceparent``, else None. Source: W3C Trace Context."""
    return header if header is not None and _TRACEPARENT.fullmatch(header) else None


def encoded(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))
