"""Events to bytes and back. Old versions are upcast on the way in, so that readers only know the newest."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import msgspec

from ridges.contracts.events import EVENT_TYPES, AnyEvent, Event

Upcast = Callable[[dict[str, Any]], dict[str, Any]]

CURRENT_VERSION = MappingProxyType(dict.fromkeys(EVENT_TYPES, 1))

UPCASTS: MappingProxyType[tuple[str, int], Upcast] = MappingProxyType({})
"""(type, version) -> pure function that turns that version's fields into the next version's."""


class UndecodableEvent(ValueError):
    """The bytes are no event that this release understands. Readers of the ledger stop; others park the message."""


class _Head(msgspec.Struct):
    type: str
    version: int = 1


_encoder = msgspec.json.Encoder(decimal_format="string")
_decoder = msgspec.json.Decoder(AnyEvent)
_head_decoder = msgspec.json.Decoder(_Head)


def encode(event: Event) -> bytes:
    """The event as JSON."""
    return _encoder.encode(event)


def decode(content: bytes) -> AnyEvent:
    """The event in its newest version.

    Raises:
        UndecodableEvent: no JSON, an unknown type, a newer version than this release knows, or fields that do not fit.

    """
    try:
        event: AnyEvent = _decoder.decode(content)
        if event.version == CURRENT_VERSION[type(event).__name__]:
            return event
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    return _decode_other(content)


def _decode_other(content: bytes) -> AnyEvent:
    """The slow path: an older version to upcast, or an error to explain."""
    try:
        head = _head_decoder.decode(content)
        current = CURRENT_VERSION.get(head.type)
        if current is None:
            raise UndecodableEvent(f"unknown event type {head.type!r}; a newer release wrote it: update this service")
        if head.version > current:
            raise UndecodableEvent(f"{head.type} version {head.version} is newer than {current}: update this service")
        return _upcast(head, current, content)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        raise UndecodableEvent(f"not an event: {error}") from error


def _upcast(head: _Head, current: int, content: bytes) -> AnyEvent:
    fields: dict[str, Any] = msgspec.json.decode(content)
    for version in range(head.version, current):
        fields = UPCASTS[head.type, version](fields) | {"version": version + 1}
    event: AnyEvent = msgspec.convert(fields, AnyEvent)
    return event
