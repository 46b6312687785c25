"""A provider's key taken out of a streamed answer that says it piece by piece, over the texts of several events. Pure.

``redaction`` masks a key that stands in one piece in the bytes. Here the texts of the events are joined, field by field
and answer by answer. While the end of a text may be the beginning of the key, its event and what follows wait: all
other events are passed on as they come, and not even decoded.

A key in parts over several fields, turned round or in another alphabet is not found: who means to tell it can always
find a way. What is kept out is what debugging servers and careless proxies do.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from ridges.gateway.calls import UNREADABLE
from ridges.gateway.redaction import MASK, SHORTEST
from ridges.gateway.sse import LONGEST_EVENT, payload_of

HELD_FROM = 4
"""Characters of the key: fewer tell nothing ("sk-") and end many an ordinary text."""
MOST_HELD = 1_000
"""Events: when nothing came of a beginning for so long, nothing will."""
SEARCHED = 16
"""Characters of a beginning that the search for one compares."""

_ENDS = re.compile(rb"(?<=\n\n)")

Place = tuple[str | int, ...]
"""Where a text stands in a chunk; in lists by the ``index`` of their items."""


class _Event:
    """One event, decoded where it is a chunk."""

    __slots__ = ("chunk", "held", "raw", "touched")

    def __init__(self, raw: bytes) -> None:
        self.raw, self.held, self.touched = raw, True, False
        try:
            self.chunk: Any = msgspec.json.decode(payload_of(raw.strip()) or b"null")
        except UNREADABLE:
            self.chunk = None

    def texts(self) -> "Iterator[tuple[Place, _Text]]":
        choices = self.chunk.get("choices") if isinstance(self.chunk, dict) else None
        return self._texts_in(choices, ())

    def _texts_in(self, value: Any, place: Place) -> "Iterator[tuple[Place, _Text]]":
        items: Sequence[tuple[str | int, Any]] = ()
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, list):
            items = list(enumerate(value))
        for key, item in items:
            if isinstance(item, str):
                yield (*place, key), _Text(self, item, partial(value.__setitem__, key))
            elif isinstance(item, dict | list):
                index = item.get("index") if isinstance(item, dict) else None
                yield from self._texts_in(item, (*place, index if isinstance(index, int) else key))

    def content(self) -> bytes:
        return b"data: " + msgspec.json.encode(self.chunk) + b"\n\n" if self.touched else self.raw


class _Text:
    """One text of an event."""

    __slots__ = ("_event", "_write", "text")

    def __init__(self, event: _Event, text: str, write: Callable[[str], None]) -> None:
        self._event, self.text, self._write = event, text, write

    def change(self, text: str) -> None:
        """Does nothing once the event has gone out."""
        if self._event.held:
            self.text, self._event.touched = text, True
            self._write(text)


Begun = list[tuple[_Text, int]]
"""Texts that hold the beginning of the key, in order, with how many characters of it are at the end of each."""


class DeltaRedaction:
    """The pieces of one stream, one after the other, whose lines end with line feeds. Gives back whole events."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret if secret and len(secret) >= SHORTEST else ""
        self._beginning = _search(self._secret) if self._secret else None
        self._buffer = b""
        self._held: list[_Event] = []
        self._begun: dict[Place, Begun] = {}

    def feed(self, piece: bytes) -> bytes:
        """What can go out now; perhaps nothing yet."""
        if self._beginning is None:
            return piece
        if self._buffer:
            piece = self._buffer + piece
        end = len(piece) if piece.endswith(b"\n\n") else piece.rfind(b"\n\n") + 2
        if end < 2:
            end = len(piece) if len(piece) > LONGEST_EVENT else 0
        events, self._buffer = piece[:end], piece[end:]
        if not self._begun and self._beginning.search(events) is None:
            return events
        return b"".join([self._take(event) for event in _ENDS.split(events) if event])

    def rest(self) -> bytes:
        """What is left at the end."""
        last = self._take(self._buffer) if self._buffer else b""
        self._buffer = b""
        return last + self._let_go()

    def _take(self, raw: bytes) -> bytes:
        event = _Event(raw)
        self._held.append(event)
        for place, text in event.texts():
            if text.text:
                self._look(place, text)
        if b"[DONE]" in raw or len(self._held) > MOST_HELD:
            return self._let_go()
        if any(_length(begun) >= HELD_FROM for begun in self._begun.values()):
            return b""
        return self._pass_on()

    def _look(self, place: Place, text: _Text) -> None:
        """Mask a key that ends in this text; note the beginning of one."""
        before = self._begun.pop(place, [])
        known, shown, left = _length(before), "", text.text
        while (at := (self._secret[:known] + left).find(self._secret)) >= 0:
            earlier = max(0, known - at)
            for part, length in _last(before, earlier):
                part.change(part.text[:-length])
            shown += left[: max(0, at - known)] + MASK.decode()
            left = left[at - known + len(self._secret) :]
            before, known = [], 0
        if shown:
            text.change(shown + left)
        begun = _begun_at_end(self._secret[:known] + left, self._secret)
        if begun:
            earlier = max(0, begun - len(left))
            self._begun[place] = [*_last(before, earlier), (text, begun - earlier)]

    def _let_go(self) -> bytes:
        """The rest of a key will not come. What is as long as a key may be is masked all the same."""
        for begun in self._begun.values():
            if _length(begun) >= SHORTEST:
                for text, length in begun:
                    text.change(text.text[:-length])
                last, _ = begun[-1]
                last.change(last.text + MASK.decode())
        self._begun.clear()
        return self._pass_on()

    def _pass_on(self) -> bytes:
        events, self._held = self._held, []
        for event in events:
            event.held = False
        return b"".join([event.content() for event in events])


def _search(secret: str) -> re.Pattern[bytes]:
    """Finds what must be decoded: a text that ends like the secret begins, ASCII that is escaped for no reason."""
    more = rb'[^"]*' if len(secret) > SEARCHED else b""
    for character in reversed(secret[1:SEARCHED]):
        more = b"(?:" + _escaped(character) + more + b")?"
    return re.compile(_escaped(secret[0]) + more + rb'"(?!\s*:)|\\u00[2-7]')


def _escaped(character: str) -> bytes:
    return rb"\\?/" if character == "/" else re.escape(character).encode()


def _begun_at_end(text: str, secret: str) -> int:
    """Length of the longest end of the text that is a beginning of the secret, and less than all of it."""
    at = text.find(secret[0], max(0, len(text) - len(secret) + 1))
    while at >= 0:
        if secret.startswith(text[at:]):
            return len(text) - at
        at = text.find(secret[0], at + 1)
    return 0


def _length(begun: Begun) -> int:
    return sum(length for _, length in begun)


def _last(begun: Begun, characters: int) -> Begun:
    """The end of the beginning: so many characters of it."""
    found: Begun = []
    for text, length in reversed(begun):
        if characters <= 0:
            break
        found.insert(0, (text, min(length, characters)))
        characters -= length
    return found
