"""How long a provider asks to be left alone, in all the ways in which providers say it."""

import json
from datetime import UTC, datetime

import pytest

from ridges.gateway.patience import retry_after_of

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, {}, 7),
        ({"retry-after": "0.5"}, {}, 0.5),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, {}, 30),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT"}, {}, 0),
        ({"retry-after": "-3"}, {}, 0),
        ({"retry-after": "soon"}, {"retry_after": 4}, 4),
        ({"retry-after-ms": "1500", "retry-after": "9"}, {}, 1.5),
        ({"retry-after": "3"}, {"retry_after": 4}, 3),
        ({}, {"retry_after": 4}, 4),
        ({}, {"retry_after": "4"}, 4),
        ({}, {"retry_after_ms": 2500}, 2.5),
        ({}, {"error": {"message": "x", "retry_after": 12.5}}, 12.5),
        ({}, {"error": {"message": "x", "metadata": {"retry_after_seconds": 6}}}, 6),
        ({}, {"error": {"message": "x", "metadata": {"headers": {"Retry-After": "11"}}}}, 11),
        ({}, [{"error": {"details": [{"@type": "x"}, {"retryDelay": "34s"}]}}], 34),
        ({}, {"error": {"details": [{"retryDelay": "1m20.5s"}]}}, 80.5),
        ({}, {"error": {"message": "Rate limit reached. Please try again in 7.66s."}}, 7.66),
        ({}, {"error": {"message": "Please try again in 1m12s. Visit our site."}}, 72),
        ({}, {"error": {"message": "try again in 900ms"}}, 0.9),
        ({}, {"error": {"message": "Please retry after 20 s"}}, 20),
        ({}, {"error": "retry after 5s"}, 5),
        ({}, {"error": {"message": "You are 30s too early, sorry"}}, None),
        ({}, {"error": {"message": "busy"}}, None),
        ({}, {"retry_after": True}, None),
        ({}, {"retry_after": 1e9}, None),
        ({}, {"retry_after": None, "error": None}, None),
        ({}, "just text", None),
        ({}, [], None),
        ({"retry-after": "nan"}, {}, None),
    ],
)
def test_patience(headers, body, seconds):
    assert retry_after_of(headers, json.dumps(body).encode(), NOW) == (
        seconds if seconds is None else pytest.approx(seconds)
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"[" * 5000, b"x" * 100_000])
def test_what_is_no_json_says_nothing(body):
    assert retry_after_of({}, body, NOW) is None
