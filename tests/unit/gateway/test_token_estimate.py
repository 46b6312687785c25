"""The estimate where no provider tells: near the usual tokenizers, bounded in time, never nothing for something."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.gateway.openai_routes import chat_call
from ridges.gateway.prompts import estimated_prompt_tokens
from ridges.gateway.token_estimate import count_tokens

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
    body = {"model": "m", "messages": [{"role": "user", "content": PROSE}]}
    plain = estimated(body)
    assert plain == count_tokens(PROSE) + 4
    assert estimated(body | {"stream": True, "seed": 7}) == plain
    assert estimated(body | {"tools": [{"name": "f"}]}) > plain
    parts = [{"type": "text", "text": PROSE}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert estimated(body | {"messages": [{"role": "user", "content": parts}]}) == plain + 1_000


def estimated(body):
    return estimated_prompt_tokens(chat_call(msgspec.json.encode(body)), image_tokens=3_000)
