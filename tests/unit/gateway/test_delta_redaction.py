"""A key that a provider says a few characters an event does not get through; ordinary streams do not wait."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.gateway.delta_redaction import DeltaRedaction
from ridges.gateway.redaction import RedactedStream, Redaction
from ridges.gateway.sse import events_of

KEY = "sk-abc/abcsk-1"
DONE = b"data: [DONE]\n\n"


def event(text, index=0, field="content"):
    delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]} if field == "arguments" else {field: text}
    return b"data: " + msgspec.json.encode({"choices": [{"index": index, "delta": delta}]}) + b"\n\n"


def relayed(*pieces):
    """As the adapter does it: keys that stand in one piece are masked before."""
    whole, stream = RedactedStream(Redaction(KEY)), DeltaRedaction(KEY)
    shown = [stream.feed(whole.feed(piece)) for piece in pieces]
    return b"".join([*shown, stream.feed(whole.rest()), stream.rest()])


def said(stream, index=0, field="content"):
    """The text of one answer, joined."""
    found = []
    for payload in events_of(stream):
        for choice in msgspec.json.decode(payload)["choices"]:
            delta = choice["delta"]
            if choice["index"] == index:
                calls = delta.get("tool_calls", [{"function": {"arguments": ""}}])
                found.append(delta.get(field, "") if field != "arguments" else calls[0]["function"]["arguments"])
    return "".join(found)


@given(st.data())
def test_the_text_of_all_events_together_never_holds_the_key(data):
    parts = st.sampled_from([KEY, "s", "sk-", "sk-abc", "/abcsk-1", "word ", KEY[:-1], KEY[3:]])
    text = "".join(data.draw(st.lists(parts, max_size=8)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    texts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    shown = said(relayed(*(event(part) for part in texts), DONE))
    assert KEY not in shown
    if KEY not in text and KEY[:8] not in text[-len(KEY) :]:
        assert shown == text
    if text.startswith("word ") and KEY not in text.replace(KEY, "", 1) and KEY in text:
        assert shown.startswith("word ")


@pytest.mark.parametrize("field", ["content", "reasoning", "arguments"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 13])
def test_at_most_three_characters_of_a_spread_key_get_out(size, field):
    texts = ["your key is ", *(KEY[at : at + size] for at in range(0, len(KEY), size)), ", and that is all"]
    shown = said(relayed(*(event(text, field=field) for text in texts), DONE), field=field)
    masked = shown.removeprefix("your key is ").removesuffix(", and that is all")
    assert masked in ("***", "s***", "sk***", "sk-***")


def test_answers_that_come_in_turns_are_told_apart():
    texts = [(KEY[:7], 0), ("sk-", 1), (KEY[7:] + ".", 0), ("fine", 1)]
    stream = relayed(*(event(text, index) for text, index in texts), DONE)
    assert said(stream, 0) == "***."
    assert said(stream, 1) == "sk-fine"


def test_escapes_hide_nothing():
    hidden = event("").replace(b'""', b'"' + b"".join(b"\\u%04x" % ord(character) for character in KEY) + b'"')
    assert said(relayed(hidden, DONE)) == "***"


def test_an_ordinary_stream_goes_on_as_it_comes_byte_by_byte():
    pieces = [event("words and sk"), event("-"), b": comment\n\n", event("y s"), b'event: x\ndata: {"choices": []}\n\n']
    stream = DeltaRedaction(KEY)
    for piece in (*pieces, event("\u00e9s"), b'data: {"usage":{"x":1.50}}\n\n', DONE):
        assert stream.feed(piece) == piece


def test_half_an_event_waits_for_its_other_half_only():
    stream, whole = DeltaRedaction(KEY), event("hello")
    assert stream.feed(whole[:20]) == b""
    assert stream.feed(whole[20:]) == whole


def test_what_was_no_key_after_all_comes_unchanged():
    stream = DeltaRedaction(KEY)
    first, between, last = event("see sk-abc"), b": alive\n\n", event(" or so")
    assert stream.feed(first) + stream.feed(between) == b""
    assert stream.feed(last) == first + between + last


def test_a_stream_that_ends_in_most_of_a_key_does_not_show_it():
    assert said(relayed(event("it is " + KEY[:5]), event(KEY[5:-2]))) == "it is ***"
    assert said(relayed(event("it is sk-ab"), DONE)) == "it is sk-ab"


def test_nothing_is_held_for_ever():
    stream = DeltaRedaction(KEY)
    begun = event("sk-ab")
    assert stream.feed(begun) == b""
    shown = b"".join(stream.feed(b": alive\n\n") for _ in range(1_100))
    assert shown.startswith(begun)


@pytest.mark.parametrize("key", [None, "", "none", "ollama"])
def test_without_a_secret_nothing_waits(key):
    assert DeltaRedaction(key).feed(b"half an ev") == b"half an ev"


def test_a_long_key_is_no_burden():
    long = "sk-" + "x/" * 2_000
    stream = DeltaRedaction(long)
    assert b"x/x" not in b"".join([stream.feed(event(long[:50])), stream.feed(event(long[50:])), stream.rest()])
