"""What a prompt can cost at most and costs by a guess; bodies that hold none are refused."""

import msgspec
import pytest

from ridges.gateway.calls import ModelCall, encoded
from ridges.gateway.errors import BodyInvalid
from ridges.gateway.openai_routes import chat_call
from ridges.gateway.prompts import check_input, estimated_prompt_tokens, most_prompt_tokens


def call(content):
    return chat_call(msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": content}]}))


def test_the_bound_is_the_bytes():
    text = "straße " * 100
    assert most_prompt_tokens(call(text), 3_000) >= len(text.encode())


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_what_a_model_is_told_besides_has_room_in_the_bound(name):
    """A short question is mostly that: 70 tokens at gpt-oss, 530 more with tools at Claude 3 Opus."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert most_prompt_tokens(chat_call(msgspec.json.encode(body)), 0) >= 128
    assert most_prompt_tokens(chat_call(msgspec.json.encode(body | {name: []})), 0) >= 728


def test_an_image_counts_flat_and_not_by_its_bytes():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    assert 3_000 <= most_prompt_tokens(call([part]), 3_000) <= 3_300
    assert 300 <= most_prompt_tokens(call([part]), 300) <= 600


def test_names_of_fields_may_be_escaped():
    """No trick of spelling hides an image among the text."""
    body = b'{"model": "m", "messages": [{"role": "user", "c\\u006fntent": [{"im\\u0061ge_url": "https://x"}]}]}'
    assert most_prompt_tokens(chat_call(body), 3_000) >= 3_000


@pytest.mark.parametrize(
    ("given", "tokens"),
    [([5, 6, 7], 3), ([[5, 6], [7]], 3), ("word", 1), (["word", "word"], 2), ([], 0)],
)
def test_what_is_embedded_is_counted_also_as_token_ids(given, tokens):
    check_input(encoded(given))
    embedding = ModelCall(kind="embedding", model="m", fields={"input": encoded(given)}, received=b"{}")
    assert estimated_prompt_tokens(embedding, 3_000) == tokens


@pytest.mark.parametrize("given", [5, None, {"a": 1}, [None], [{"image": "https://x"}], [["text"]], True, [1.5]])
def test_other_things_cannot_be_embedded(given):
    with pytest.raises(BodyInvalid, match=r"body\.input"):
        check_input(encoded(given))


@pytest.mark.parametrize("messages", [5, None, "x", {}, [], [5], [None], [[]], [{"content": 5}], [{"content": [5]}]])
def test_messages_are_a_list_of_objects(messages):
    with pytest.raises(BodyInvalid, match=r"body\.messages"):
        chat_call(msgspec.json.encode({"model": "m", "messages": messages}))


@pytest.mark.parametrize(
    "message", [{"role": "assistant", "tool_calls": []}, {"content": None}, {"content": "x"}, {"content": ["x"]}]
)
def test_a_message_need_not_hold_text(message):
    assert chat_call(msgspec.json.encode({"model": "m", "messages": [message]})).media.others == 0
