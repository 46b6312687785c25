"""A provider's key taken out of what the provider says, also where it comes in pieces or encoded. Pure.

Masked are the key itself and what servers, proxies and their error pages make of it: JSON escapes and percent-encoding
of any of its characters, base64 (of the key alone or within something longer, standard or for URLs) and hex.

Who means to tell the key can always find a way (reversed, in parts, encrypted): that is not what this keeps out.
"""

import re
from base64 import b64encode
from collections.abc import Iterator

MASK = b"***"
SHORTEST = 8
"""Shorter ones are placeholders for servers that want any key at all ("none", "ollama"): words of ordinary answers."""
LESSONS = 4
"""Events that a stream is learned from."""
LONGEST_LINE = 4 * 1024 * 1024
"""More of a stream is not held back to see a line as a whole."""


LONGEST_ESCAPE = 7
"""Characters of an escape of one, in JSON within JSON."""
_CUT_ESCAPE = re.compile(rb"\\+(?:u0{0,2}[0-9a-fA-F]?)?|%[0-9a-fA-F]?")


class Redaction:
    """One secret. Providers repeat keys in error texts, some debugging servers in whole answers."""

    def __init__(self, secret: str | None) -> None:
        secret = secret if secret and len(secret) >= SHORTEST else ""
        self.forms = tuple(dict.fromkeys(_forms(secret.encode()))) if secret else ()
        """As literal bytes, the key itself first. Empty without a secret."""
        self._json_escape, self._percent = (re.compile(pattern) for pattern in _escapes_of_one(secret))
        self._spellings = [re.compile(_any_spelling(character)) for character in secret]
        self._escaped = re.compile(b"".join(spelling.pattern for spelling in self._spellings))
        self._firsts = {form[0] for form in self.forms} | set(b"\\%")
        self._longest = max((len(form) for form in self.forms), default=0) * LONGEST_ESCAPE

    def whole(self, content: bytes) -> bytes:
        """The content without the secret. Nearly always a few searches for bytes that are not there."""
        for form in self.forms:
            if form in content:
                content = content.replace(form, MASK)
        if self.forms and (
            (b"\\u00" in content and self._json_escape.search(content))
            or (b"%" in content and self._percent.search(content))
        ):
            content = self._escaped.sub(MASK, content)
        return content

    def head(self, content: bytes) -> bytes:
        """Like ``whole``, for the beginning of something longer: what may be a cut secret at its end is left out."""
        content = self.whole(content)
        held = self._begun_at_end(content)
        return content[:-held] if held else content

    def _begun_at_end(self, content: bytes) -> int:
        """Length of the longest end of the content that is a beginning of the secret; 0 nearly always."""
        for at in range(max(0, len(content) - self._longest), len(content)):
            if content[at] in self._firsts:
                end = content[at:]
                if any(form.startswith(end) for form in self.forms) or self._is_spelled_by(end):
                    return len(end)
        return 0

    def _is_spelled_by(self, text: bytes) -> bool:
        """Is it a beginning of the secret with escapes, perhaps cut in the last of them?"""
        at = 0
        for spelling in self._spellings:
            found = spelling.match(text, at)
            if found is None:
                return _CUT_ESCAPE.fullmatch(text, at) is not None
            at = found.end()
            if at == len(text):
                return True
        return False


class RedactedStream:
    """Pieces of a stream, one after the other: whole lines go out, for no form of a key holds a line feed.

    Events of a stream begin alike. One that begins like those before, and in what follows has no room for a key, is
    not searched at all.
    """

    def __init__(self, redaction: Redaction) -> None:
        self._redaction, self._held = redaction, b""
        self._shortest = min(map(len, redaction.forms), default=0)
        self._alike = self._before = b""
        self._room = 0
        self._lessons = LESSONS if any(b'"' in form for form in redaction.forms) else 0

    def feed(self, piece: bytes) -> bytes:
        """What can go out now; perhaps nothing yet."""
        if self._room and not self._held and piece.endswith(b"\n") and piece.startswith(self._alike):
            return piece if len(piece) < self._room else self._alike + self._redaction.whole(piece[len(self._alike) :])
        if not self._redaction.forms:
            return piece
        if self._held:
            piece, self._held = self._held + piece, b""
        if not piece.endswith(b"\n"):
            end = piece.rfind(b"\n") + 1
            if len(piece) - end <= LONGEST_LINE:
                piece, self._held = piece[:end], piece[end:]
        shown = self._redaction.whole(piece)
        if self._lessons < LESSONS and shown is piece:
            self._learn(piece)
        return shown

    def rest(self) -> bytes:
        """What is left at the end."""
        rest, self._held = self._held, b""
        return self._redaction.whole(rest)

    def _learn(self, clean: bytes) -> None:
        """How events of this stream begin: text that was searched, up to a quote, which is in no form of a key."""
        self._lessons += 1
        alike = clean[: _alike(self._before, clean)]
        alike = alike[: alike.rfind(b'"') + 1]
        if len(alike) > len(self._alike):
            self._alike, self._room = alike, len(alike) + self._shortest
        self._before = clean


def _alike(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are the same."""
    known, limit = 0, min(len(one), len(other)) + 1
    while limit - known > 1:
        middle = (known + limit) // 2
        known, limit = (middle, limit) if one.startswith(other[:middle]) else (known, middle)
    return known


def _forms(secret: bytes) -> Iterator[bytes]:
    in_json = secret.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    plain = (secret, in_json, *_in_base64(secret), secret.hex().encode(), secret.hex().upper().encode())
    for form in plain:
        yield form
        yield form.replace(b"/", b"\\/")  # as JSON may escape it


def _in_base64(secret: bytes) -> Iterator[bytes]:
    """The characters that are the same whatever stands before and behind the secret, for each way it can be cut."""
    for before in range(3):
        encoded = b64encode(bytes(before) + secret)
        first = (0, 2, 3)[before]
        last = (before + len(secret)) * 8 // 6
        yield encoded[first:last]
        yield encoded[first:last].replace(b"+", b"-").replace(b"/", b"_")


def _escapes_of_one(secret: str) -> tuple[bytes, bytes]:
    """Patterns of a JSON escape and of a percent escape of some character of the secret."""
    anyone = b"|".join(sorted({_hex(ord(character)) for character in secret})) or rb"(?!)"
    return rb"\\u00(?:" + anyone + b")", b"%(?:" + anyone + b")"


def _any_spelling(character: str) -> bytes:
    """A pattern for the character as it is, escaped in JSON (within JSON, too), or percent-encoded."""
    code = _hex(ord(character))
    plain = re.escape(character.encode())
    if character in '/"\\':
        plain = rb"\\{0,8}" + plain
    return rb"(?:\\{1,8}u00" + code + b"|%" + code + b"|" + plain + b")"


def _hex(code: int) -> bytes:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{code:02x}").encode()
