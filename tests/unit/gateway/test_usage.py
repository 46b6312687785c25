"""Usage as providers report it, taken apart into disjoint kinds."""

import msgspec
import pytest

from ridges.contracts.usage import TokenUsage
from ridges.gateway.usage_parsing import parse_usage


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, TokenUsage(input=10, output=5)),
        ({"prompt_tokens": 10, "total_tokens": 10}, TokenUsage(input=10)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
            TokenUsage(input=6, cached_input=4, output=5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}},
            TokenUsage(input=10, output=2, reasoning=3),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 22,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            TokenUsage(input=10, output=5, reasoning=7),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            TokenUsage(input=10, output=5, reasoning=2),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 4},
            TokenUsage(input=6, cached_input=4, output=1),
        ),
        (
            {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
            TokenUsage(cached_input=3, output=1),
        ),
        ({"prompt_tokens": 3, "completion_tokens": None, "prompt_tokens_details": None}, TokenUsage(input=3)),
        (None, None),
        ({}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": "many"}, None),
        ([1], None),
    ],
)
def test_usage_shapes(reported, expected):
    assert parse_usage(msgspec.json.encode(reported)) == expected


def test_no_usage_is_none():
    assert parse_usage(None) is None
