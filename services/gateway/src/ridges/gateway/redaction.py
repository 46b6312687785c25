"""A provider's key taken out of what the provider says, also where it comes in pieces. Pure."""

MASK = b"***"
SHORTEST = 8
"""Shorter ones are placeholders for servers that want any key at all ("none", "ollama"): words of ordinary answers."""


class Redaction:
    """One secret. Providers repeat keys in error texts, some debugging servers in whole answers."""

    def __init__(self, secret: str | None) -> None:
        secret_bytes = secret.encode() if secret and len(secret) >= SHORTEST else b""
        escaped = secret_bytes.replace(b"/", b"\\/")
        self._forms = tuple(dict.fromkeys(form for form in (secret_bytes, escaped) if form))
        self._first = secret_bytes[:1]
        self._longest = max((len(form) for form in self._forms), default=0)

    def whole(self, content: bytes) -> bytes:
        """The content without the secret, plain or as JSON may escape it."""
        for form in self._forms:
            if form in content:
                content = content.replace(form, MASK)
        return content

    def head(self, content: bytes) -> bytes:
        """Like ``whole``, for the beginning of something longer: what may be a cut secret at its end is left out."""
        shown, _ = self.split(content)
        return shown

    def split(self, content: bytes) -> tuple[bytes, bytes]:
        """(what can go out, what must wait for the next piece because the secret may begin in it)."""
        content = self.whole(content)
        held = self._begun_at_end(content)
        return (content[:-held], content[-held:]) if held else (content, b"")

    def _begun_at_end(self, content: bytes) -> int:
        """Length of the longest end of the content that is a beginning of the secret; 0 nearly always."""
        if not self._forms or content[-1:] == b"\n":  # as events end; no header value holds one
            return 0
        at = content.find(self._first, max(0, len(content) - self._longest + 1))
        while at >= 0:
            if any(form.startswith(content[at:]) for form in self._forms):
                return len(content) - at
            at = content.find(self._first, at + 1)
        return 0


class RedactedStream:
    """Pieces of a stream, one after the other."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction, self._held = redaction, b""

    def feed(self, piece: bytes) -> bytes:
        """What can go out now; perhaps nothing yet."""
        shown, self._held = self._redaction.split(self._held + piece if self._held else piece)
        return shown

    def rest(self) -> bytes:
        """What is left at the end: the beginning of a secret that never came whole, so it was none."""
        rest, self._held = self._held, b""
        return rest
