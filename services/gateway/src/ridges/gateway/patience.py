"""How long a provider asks to be left alone: in headers, in an error body, or only in its text. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from ridges.gateway.calls import UNREADABLE

LONGEST_S = 24 * 3600.0
"""More is no time to wait but a mistake, e.g. a time in another unit."""
_IN_SECONDS = ("retry_after", "retry_after_s", "retry_after_seconds", "retryAfter", "retryDelay")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_IN_TEXT = re.compile(
    r"(?:try again|retry)\D{0,20}?\b(?:in|after)\s+((?:\d+h)?(?:\d+m(?!s))?(?:\d+(?:\.\d+)?\s?(?:ms|s))?)",
    re.IGNORECASE,
)
LONGEST_BODY = 64 * 1024


def retry_after_of(headers: Mapping[str, str], body: bytes, now: datetime) -> float | None:
    """Seconds to wait, from whatever tells it first: ``retry-after-ms``, ``Retry-After``, the JSON body, its text.

    Names of headers are in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _sane(milliseconds / 1000)
    told = retry_after_s(headers.get("retry-after"), now)
    return told if told is not None else _in_body(body, now)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date. Source: RFC 9110, 10.2.3."""
    if header is None:
        return None
    seconds = _number(header)
    if seconds is not None:
        return _sane(seconds)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return _sane((at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def _in_body(body: bytes, now: datetime) -> float | None:
    """``retry_after`` and its spellings at the top, in ``error`` or its ``metadata``; Google's ``details``; words.

    Source: OpenRouter (``error.metadata.headers``), Google (``error.details[].retryDelay``), OpenAI and Groq (words).
    """
    if not body or len(body) > LONGEST_BODY:
        return None
    try:
        content = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if isinstance(content, list) and content:
        content = content[0]
    for table in _tables(content):
        for name in _IN_SECONDS:
            found = _duration(table.get(name))
            if found is not None:
                return _sane(found)
        if (milliseconds := _number(table.get("retry_after_ms"))) is not None:
            return _sane(milliseconds / 1000)
        if isinstance(header := table.get("Retry-After"), str):
            return retry_after_s(header, now)
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    words = _IN_TEXT.search(message) if isinstance(message, str) else None
    return _sane(_duration(words.group(1).replace(" ", ""))) if words else None


def _tables(content: Any) -> list[dict[str, Any]]:
    """The places where providers put it, from the outside in."""
    if not isinstance(content, dict):
        return []
    error = content.get("error")
    error = error if isinstance(error, dict) else {}
    metadata = error.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    details = error.get("details")
    tables = [content, error, metadata, metadata.get("headers"), *(details if isinstance(details, list) else ())]
    return [table for table in tables if isinstance(table, dict)]


def _duration(value: Any) -> float | None:
    """5, "5", "7.66s", "1m20s", "900ms"."""
    number = _number(value)
    if number is not None or not isinstance(value, str) or not value:
        return number
    parts = _DURATION.fullmatch(value)
    if parts is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _sane(seconds: float | None) -> float | None:
    """No time to wait is negative, endless or longer than a day."""
    if seconds is None or not seconds <= LONGEST_S:
        return None
    return max(0.0, seconds)
