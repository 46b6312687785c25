"""Recorded replies."""

import msgspec
import pytest
from unit.gateway.support import model, provider

from ridges.gateway.ports import ProviderTooSlow
from ridges.gateway.providers_config import ConfigError
from ridges.gateway.replay import EMBEDDING_SIZE, Replay
from ridges.gateway.sse import SseRelay
from ridges.gateway.usage_parsing import parse_usage

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 6},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def recording(conversation="bug", turn=0, text="first", **changes):
    line = {"conversation": conversation, "turn": turn, "model": "m", "message": {"content": text}, "usage": USAGE}
    return line | {"latency_ms": 1} | changes


def replaying(tmp_path, *lines):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines) + b"\n\n")
    return Replay(provider("r", model("m"), kind="replay", recordings=(path,)))


def request(*messages, **changes):
    said = [{"role": role, "content": content} for role, content in messages or [("user", "there is a bug here")]]
    return msgspec.json.encode({"model": "m", "messages": said} | changes)


async def answer(replay, body):
    reply = await replay.send("chat/completions", body, 5)
    return reply.status, msgspec.json.decode(reply.body)


async def test_the_turn_and_the_first_user_message_choose(tmp_path):
    replay = replaying(tmp_path, recording(), recording(turn=1, text="second"), recording("a bug here", text="longer"))
    status, first = await answer(replay, request(("system", "s"), ("user", "some bug")))
    assert (status, first["choices"][0]["message"]["content"]) == (200, "first")
    assert (first["choices"][0]["finish_reason"], first["usage"]["total_tokens"]) == ("stop", 30)
    _, longer = await answer(replay, request())
    assert longer["choices"][0]["message"]["content"] == "longer", "the longest matching text wins"
    _, second = await answer(replay, request(("user", "some bug"), ("assistant", "x"), ("user", "y")))
    assert second["choices"][0]["message"]["content"] == "second"


async def test_content_in_parts_is_text_too(tmp_path):
    body = request(("user", [{"type": "text", "text": "a bug"}]))
    assert (await answer(replaying(tmp_path, recording()), body))[0] == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (request(("user", "hello world")), "turn 0 of the conversation that starts with 'hello world'"),
        (request(("user", "bug"), ("assistant", "x")), "turn 1 of the conversation that starts with 'bug'"),
        (request(model="other"), "for the model other"),
        (msgspec.json.encode({"model": "m", "messages": 7}), "starts with ''"),
    ],
)
async def test_what_was_not_recorded_is_told(tmp_path, body, words):
    replay = replaying(tmp_path, recording())
    status, told = await answer(replay, body)
    assert status == 404
    assert words in told["error"]["message"]
    async with replay.stream(body, 5, 5) as stream:
        assert stream.status == 404
        assert words in (await stream.body()).decode()


async def test_an_output_limit_cuts_like_a_model_would(tmp_path):
    _, cut = await answer(replaying(tmp_path, recording(text="x" * 100)), request(max_tokens=5))
    assert len(cut["choices"][0]["message"]["content"]) == 50
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 5
    assert cut["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


async def test_a_stream_gives_the_same_message_and_usage(tmp_path):
    text = "word " * 30
    replay = replaying(tmp_path, recording(text=text, message={"content": text, "tool_calls": [CALL]}))
    relay = SseRelay(keep_usage=True)
    async with replay.stream(request(stream_options={"include_usage": True}), 5, 5) as stream:
        pieces = []
        await stream.flow(lambda chunk: pieces.append(relay.feed(chunk)))
        out = b"".join(pieces)
    deltas = [
        choice["delta"]
        for event in out.decode().split("\n\n")
        if event
        for choice in msgspec.json.decode(event.removeprefix("data: "))["choices"]
    ]
    assert "".join(delta.get("content") or "" for delta in deltas) == text
    assert [delta["tool_calls"] for delta in deltas if "tool_calls" in delta] == [[{"index": 0, **CALL}]]
    assert relay.done
    assert relay.usage == parse_usage(msgspec.json.encode(USAGE))


async def test_latency_beyond_the_timeout_is_too_slow(tmp_path):
    with pytest.raises(ProviderTooSlow):
        await replaying(tmp_path, recording(latency_ms=500)).send("chat/completions", request(), 0.01)


async def test_embeddings_are_recorded_or_made_from_a_hash(tmp_path):
    replay = replaying(tmp_path, {"model": "m", "input": "known", "embedding": [1.0, 2.0]})
    body = msgspec.json.encode({"model": "m", "input": ["known", "new", "new", "other"]})
    _, reply = await answer_embedding(replay, body)
    known, new, again, other = (row["embedding"] for row in reply["data"])
    assert known == [1.0, 2.0]
    assert new == again != other
    assert len(new) == EMBEDDING_SIZE
    assert abs(sum(number * number for number in new) - 1) < 1e-6


async def answer_embedding(replay, body):
    reply = await replay.send("embeddings", body, 5)
    return reply.status, msgspec.json.decode(reply.body)


def test_a_broken_recording_is_told_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 2: no recording: .*unknown field `tunr`"):
        replaying(tmp_path, recording(), recording() | {"tunr": 1})
