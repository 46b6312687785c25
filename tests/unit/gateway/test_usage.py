"""Usage as providers report it, taken apart into disjoint kinds."""

import msgspec
import pytest

from ridges.contracts.usage import TokenUsage
from ridges.gateway.usage_parsing import parse_usage, reported_cost_nano_usd, usage_in


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
        ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, TokenUsage(input=10, output=5)),
        ({"prompt_tokens": 10, "total_tokens": 15}, TokenUsage(input=10, output=5)),
        ({"total_tokens": 10}, TokenUsage(input=10)),
        ({"completion_tokens": 4, "total_tokens": 10}, TokenUsage(input=6, output=4)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": [], "completion_tokens_details": 1},
            TokenUsage(input=10, output=5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 2.0}},
            TokenUsage(input=10, output=3, reasoning=2),
        ),
        ({"prompt_tokens": 10.5, "completion_tokens": 5}, None),
        (None, None),
        ({}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": "many"}, None),
        ([1], None),
    ],
)
def test_usage_shapes(reported, expected):
    assert parse_usage(msgspec.json.encode(reported)) == expected


USAGE = {"usage": {"prompt_tokens": 3}}


@pytest.mark.parametrize("place", [{"choices": [USAGE]}, {"x_groq": USAGE}])
def test_usage_is_found_where_some_providers_put_it(place):
    assert usage_in(msgspec.json.encode(place)) == TokenUsage(input=3)
    assert usage_in(msgspec.json.encode(place | {"usage": {"prompt_tokens": 4}})) == TokenUsage(input=4)


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ({"cost": 0.0001234567891}, 123_457),
        ({"cost": 1}, 1_000_000_000),
        ({"cost": 0}, 0),
        ({"cost": {"total_cost": 0.5}}, 500_000_000),
        ({"cost": 0.5, "is_byok": True}, None),
        ({"cost": "0.5"}, None),
        ({"cost": None}, None),
        ({"cost": -1}, None),
        ({}, None),
    ],
)
def test_a_cost_that_the_provider_tells(usage, nano):
    body = msgspec.json.encode({"choices": [{"message": {"content": '"cost"'}}], "usage": usage})
    last = b"data: " + msgspec.json.encode({"choices": [], "usage": usage})
    assert reported_cost_nano_usd(body) == nano
    assert reported_cost_nano_usd(b'data: {"choices": [], "usage": {"cost": "0"}}\n\n' + last) == nano


def test_no_usage_is_none():
    assert parse_usage(None) is None
