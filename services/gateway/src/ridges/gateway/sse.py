"""Relay of a streamed chat answer: events go on as they came; only usage is read, and taken out where nobody asked."""

import re
from codecs import BOM_UTF8
from collections.abc import Iterable

import msgspec
from msgspec import Raw

from ridges.contracts.usage import TokenUsage
from ridges.gateway.calls import UNREADABLE, Fields, encoded
from ridges.gateway.usage_parsing import nested_usage, parse_usage, usage_in

DONE = b"data: [DONE]\n\n"
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')
"""Quotes inside JSON text are escaped, so this can only be the field."""
LONGEST_EVENT = 4 * 1024 * 1024


class _Chunk(msgspec.Struct):
    choices: list[Raw] = []
    usage: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class BrokenStream(Exception):
    """The provider sent an error or what is no stream of chat chunks."""


class LineEnds:
    """The pieces of one stream, with line feeds for whatever ends its lines.

    Source: WHATWG HTML, 9.2.5 Parsing an event stream: carriage return, line feed, or both.
    """

    def __init__(self) -> None:
        self._returned = False
        """The last piece ended with a carriage return, whose line feed may follow."""

    def feed(self, piece: bytes) -> bytes:
        if self._returned and piece:
            piece, self._returned = piece.removeprefix(b"\n"), False
        if b"\r" not in piece:
            return piece
        self._returned = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class SseRelay:
    """One streamed answer."""

    def __init__(self, *, keep_usage: bool, answers: int = 1) -> None:
        self.usage: TokenUsage | None = None
        self.finished = False
        """All is whole: a finish reason of each answer that was asked for, or ``[DONE]``, came."""
        self.received: list[bytes] = []
        """Every event with data, as it came."""
        self._keep_usage, self._answers = keep_usage, answers
        self._finished: set[int] = set()
        """Of several answers those that are whole, by index."""
        self._line_ends, self._buffer = LineEnds(), b""
        self._done = False

    @property
    def done(self) -> bool:
        """``[DONE]`` came (it is not relayed: the caller gets one when the call is settled)."""
        return self._done

    def feed(self, chunk: bytes) -> bytes:
        """The complete events so far, to be sent on; nothing before the first event with data.

        Raises:
            BrokenStream: an error event, or no JSON.

        """
        if self.received and not self._buffer and self._is_usual(chunk):
            self.received.append(chunk[:-2])
            return chunk
        *events, self._buffer = (self._buffer + self._line_ends.feed(chunk)).split(b"\n\n")
        if len(self._buffer) > LONGEST_EVENT:
            raise BrokenStream("one event of the stream is longer than 4 MiB")
        return b"".join([self._relayed(event) for event in events])

    def end(self) -> bytes:
        """What is left when the connection ended without a last blank line.

        Raises:
            BrokenStream: as ``feed``, and where a whole answer or an error came as JSON (``usage`` has what it tells).

        """
        rest, self._buffer = self._buffer.strip(), b""
        if rest.startswith(b"{") and not self.received:
            self.usage = usage_in(rest)
            raise BrokenStream(f"no stream but JSON: {rest[:500].decode(errors='replace')}")
        return self._relayed(rest) if rest else b""

    def _is_usual(self, chunk: bytes) -> bool:
        """One whole event in one line that tells nothing but text, as nearly all are: nothing of it need be read."""
        return (
            chunk.startswith(b"data: {")
            and chunk.endswith(b"}\n\n")
            and chunk.count(b"\n") == 2
            and b"\r" not in chunk
            and b'"error"' not in chunk
            and b'"usage"' not in chunk
            and (self.finished or chunk.count(b'"finish_reason"') == chunk.count(b'"finish_reason":null'))
        )

    def _relayed(self, event: bytes) -> bytes:
        if not self.received:
            event = event.removeprefix(BOM_UTF8)
        payload = payload_of(event)
        if payload is None:
            return event + b"\n\n" if self.received and event else b""
        if payload == b"[DONE]":
            self._done = True
            self.finished = self.finished or bool(self.received)
            return b""
        first = not self.received
        if first or not (payload.startswith(b"{") and payload.endswith(b"}")) or b'"error"' in payload:
            self._check(payload)
        self.received.append(event)
        if not self.finished and _FINISHED.search(payload):
            self._note_finish(payload)
        if b'"usage"' in payload:
            return self._relayed_usage(event, payload)
        return event + b"\n\n"

    def _note_finish(self, payload: bytes) -> None:
        if self._answers > 1:
            self._finished.update(choice.index for choice in _choices(payload) if choice.finish_reason)
        self.finished = self._answers == 1 or len(self._finished) >= self._answers

    def _check(self, payload: bytes) -> None:
        try:
            chunk = msgspec.json.decode(payload, type=_Chunk)
        except UNREADABLE as error:
            raise BrokenStream(f"an event of the stream is no chat chunk: {error}") from error
        if bytes(chunk.error) != b"null":
            raise BrokenStream(bytes(chunk.error).decode(errors="replace"))

    def _relayed_usage(self, event: bytes, payload: bytes) -> bytes:
        if not self._keep_usage:
            payload, nulls = _NULL_USAGE.subn(b"", payload)
            if nulls and b'"usage"' not in payload:
                return b"data: " + payload + b"\n\n"
        try:
            chunk = msgspec.json.decode(payload, type=_Chunk)
        except UNREADABLE as error:
            raise BrokenStream(f"an event of the stream is no chat chunk: {error}") from error
        usage = parse_usage(chunk.usage)
        if usage is None and not _NULL_USAGE.search(payload):
            usage = nested_usage(payload)
        if usage is not None and (self.usage is None or usage.total >= self.usage.total):
            self.usage = usage  # some report it again and again as it grows, some end with an empty one
        if self._keep_usage or usage is None or bytes(chunk.usage) == b"null":
            return event + b"\n\n"
        if not chunk.choices:
            return b""
        fields = msgspec.json.decode(payload, type=Fields)
        del fields["usage"]
        return b"data: " + bytes(encoded(fields)) + b"\n\n"


def events_of(stream: bytes) -> list[bytes]:
    """The data of every event in a whole stream, without ``[DONE]``."""
    payloads = (payload_of(event) for event in LineEnds().feed(stream).split(b"\n\n"))
    return [payload for payload in payloads if payload and payload != b"[DONE]"]


def generated_text(events: list[bytes]) -> str:
    """Text, reasoning and tool calls in the chunks, answer by answer as a buffered reply has them: for estimates."""
    return _said(choice for event in events if (payload := payload_of(event)) for choice in _choices(payload))


def error_event(detail: str, code: str) -> bytes:
    """How a stream ends that cannot be completed: an error, and no ``[DONE]``."""
    body = {"error": {"message": detail, "type": "gateway_error", "code": code}}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class Message(msgspec.Struct):
    """The text-bearing fields of a message or a delta."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Texts:
    """What one answer has said so far, kind by kind."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, list[str]] = {}

    def add(self, said: Message) -> None:
        self._content.append(said.content or "")
        self._reasoning.append(said.reasoning_content or said.reasoning or "")
        for place, call in enumerate(said.tool_calls or ()):
            if call.function is not None:
                texts = self._calls.setdefault(place if call.index is None else call.index, [])
                texts += [call.function.name or "", call.function.arguments or ""]

    def joined(self) -> str:
        parts = (self._reasoning, self._content, *self._calls.values())
        return "\n".join(text for part in parts if (text := "".join(part)))


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None
    delta: Message | None = None
    message: Message | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice] = []


def _choices(payload: bytes) -> list[_Choice]:
    try:
        return msgspec.json.decode(payload, type=_Choices).choices
    except UNREADABLE:
        return []


def reply_text(body: bytes) -> str:
    """Text, reasoning and tool calls of a buffered reply: for estimates."""
    return _said(_choices(body))


def _said(choices: "Iterable[_Choice]") -> str:
    answers: dict[int, _Texts] = {}
    for choice in choices:
        if (said := choice.delta or choice.message) is not None:
            answers.setdefault(choice.index, _Texts()).add(said)
    return "\n".join(texts.joined() for texts in answers.values())


def payload_of(event: bytes) -> bytes | None:
    """The data of an event; None for comments and other fields."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
