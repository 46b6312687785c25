"""The estimate where no provider tells: near the usual tokenizers, bounded in time, never nothing for something."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.gateway.calls import encoded
from ridges.gateway.token_estimate import count_tokens
from ridges.gateway.usage_parsing import estimated_prompt_tokens

PROSE = "The sandbox manager starts the agent and reads its patch when every process is dead. " * 20
CODE = "def f(x):\n    return x + 1\n" * 40


@pytest.mark.parametrize(
    ("text", "tokens", "off"),
    [
        (PROSE, 321, 0.1),
        (CODE, 440, 0.1),
        ("这是一个关于软件工程代理的系统它在沙箱中运行。" * 10, 150, 0.1),
        ('{"a": 1, "b": [true, null]}\n' * 20, 281, 0.35),
    ],
    ids=["prose", "code", "chinese", "json"],
)
def test_it_is_near_o200k_base(text, tokens, off):
    """The counts are those of o200k_base."""
    assert abs(count_tokens(text) / tokens - 1) <= off


def test_nothing_is_nothing_and_something_is_something():
    assert count_tokens("") == 0
    assert count_tokens("a") == 1


@given(st.text(max_size=300))
def test_there_are_never_more_tokens_than_bytes(text):
    assert 0 <= count_tokens(text) <= len(text.encode(errors="replace")) + 1


def test_a_huge_text_is_sampled():
    began_at = time.monotonic()
    assert count_tokens(PROSE * 5_000) == pytest.approx(count_tokens(PROSE) * 5_000, rel=0.05)
    assert time.monotonic() - began_at < 2


def test_a_prompt_is_its_messages_and_tools_whatever_else_is_asked():
    fields = {"messages": encoded([{"role": "user", "content": PROSE}])}
    plain = estimated_prompt_tokens(fields)
    assert plain == count_tokens(PROSE) + 4
    assert estimated_prompt_tokens(fields | {"stream": encoded(True), "seed": encoded(7)}) == plain
    assert estimated_prompt_tokens(fields | {"tools": encoded([{"name": "f"}])}) > plain
    parts = [{"type": "text", "text": PROSE}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert estimated_prompt_tokens({"messages": encoded([{"role": "user", "content": parts}])}) == plain + 1_000
    assert estimated_prompt_tokens({"input": encoded(["a b", "c"])}) == 3
    assert estimated_prompt_tokens({"messages": encoded("nonsense")}) == 0
