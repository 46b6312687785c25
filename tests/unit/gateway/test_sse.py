"""Relay of streams: the same events out, the usage read from wherever it comes, taken out where nobody asked."""

import pytest
from unit.gateway.support import chunk, usage

from ridges.contracts.usage import TokenUsage
from ridges.gateway.sse import BrokenStream, SseRelay, generated_text

TEXT = [chunk("Hel"), chunk("lo"), chunk(finish="stop")]
DONE = b"data: [DONE]\n\n"
EXPECTED = TokenUsage(input=10, output=5)


def relayed(events, *, keep_usage=False, cut_at=None):
    relay = SseRelay(keep_usage=keep_usage)
    stream = b"".join(events)
    pieces = [stream] if cut_at is None else [stream[at : at + cut_at] for at in range(0, len(stream), cut_at)]
    out = b"".join(relay.feed(piece) for piece in pieces) + relay.end()
    return relay, out


@pytest.mark.parametrize("cut_at", [None, 1, 7])
@pytest.mark.parametrize(
    "last",
    [
        [chunk(usage=usage(), choices=False)],
        [chunk(usage=usage()), chunk(usage=usage(), choices=False)],
        [chunk("x", usage=usage(1, 1)), chunk(usage=usage(), choices=False)],
    ],
    ids=["without choices", "twice", "growing"],
)
def test_usage_is_read_and_taken_out(last, cut_at):
    relay, out = relayed([*TEXT, *last, DONE], cut_at=cut_at)
    assert relay.usage == EXPECTED
    assert relay.done
    assert relay.finished
    assert b"usage" not in out
    assert b"[DONE]" not in out, "the caller gets its own when the call is settled"
    assert out.startswith(b"".join(TEXT))


def test_usage_beside_choices_leaves_the_choices():
    relay, out = relayed([*TEXT[:-1], chunk(finish="stop", usage=usage()), DONE])
    assert relay.usage == EXPECTED
    assert out == b"".join(TEXT)


def test_null_usage_on_every_chunk_is_taken_out():
    _, out = relayed([chunk("a", usage=None), chunk(finish="stop", usage=None), DONE])
    assert out == chunk("a") + chunk(finish="stop")


def test_a_caller_that_asked_gets_every_byte():
    events = [*TEXT, chunk("a", usage=None), chunk(usage=usage(), choices=False)]
    relay, out = relayed([*events, DONE], keep_usage=True)
    assert out == b"".join(events)
    assert relay.usage == EXPECTED


def test_absent_usage_stays_absent_and_the_text_is_counted():
    relay, _ = relayed([*TEXT, DONE])
    assert relay.usage is None
    assert generated_text(relay.received) == "Hello"


def test_text_that_looks_like_usage_is_text():
    tricky = chunk('{"a": 1, "usage": null, "error": 1}, "finish_reason": "stop"')
    relay, out = relayed([tricky])
    assert out == tricky
    assert not relay.finished


def test_comments_wait_for_the_first_event():
    relay = SseRelay(keep_usage=False)
    assert relay.feed(b": thinking\n\n") == b""
    assert relay.feed(TEXT[0]) == TEXT[0]
    assert relay.feed(b": still here\n\n") == b": still here\n\n"


@pytest.mark.parametrize("cut_at", [None, 1, 3, 5])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_lines_of_any_end_and_a_missing_last_blank_line(line_end, cut_at):
    stream = b"".join(TEXT).replace(b"\n", line_end).rstrip(b"\r\n")
    relay, out = relayed([stream], cut_at=cut_at)
    assert out == b"".join(TEXT)
    assert relay.finished


def test_an_event_that_ends_with_carriage_returns_is_not_held_back():
    relay = SseRelay(keep_usage=False)
    for text in TEXT:
        assert relay.feed(text.replace(b"\n", b"\r")) == text
    assert relay.feed(b"\n") == b"", "the line feed of the last one"


def test_a_byte_order_mark_in_front_is_none():
    relay, out = relayed([b"\xef\xbb\xbf", *TEXT, DONE], cut_at=2)
    assert out == b"".join(TEXT)
    assert relay.done


@pytest.mark.parametrize(
    "event", [b'data: {"error": {"message": "overloaded"}}\n\n', b"data: <html>\n\n", b"data: [1]\n\n"]
)
def test_errors_and_garbage_break_the_stream(event):
    with pytest.raises(BrokenStream):
        relayed([TEXT[0], event])


def test_a_null_error_is_none():
    event = b'data: {"choices": [], "error": null}\n\n'
    assert relayed([TEXT[0], event])[1].endswith(event)


ODD_EVENTS = {
    "text": b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n',
    "finish": b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    "one of two finishes": b'data: {"choices":[{"finish_reason":null},{"index":1,"finish_reason":"stop"}]}\n\n',
    "no finish reason": b'data: {"choices":[]}\n\n',
    "usage": b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n',
    "null usage": b'data: {"choices":[{"index":0,"finish_reason":null}],"usage":null}\n\n',
    "error": b'data: {"error":{"message":"no"}}\n\n',
    "two lines": b'data: {"choices":\ndata: []}\n\n',
    "two events": b'data: {"choices":[]}\n\ndata: {"choices":[]}\n\n',
    "done behind it": b'data: {"choices":[]}\n\ndata: [DONE]\n\n',
    "carriage returns": b'data: {"choices":[]}\r\n\r\n',
    "lone carriage returns": b'data: {"choices":[]}\r\r',
    "a comment": b": still there\n\n",
    "an event's name": b'event: x\ndata: {"choices":[]}\n\n',
    "no blank behind the colon": b'data:{"choices":[]}\n\n',
    "no JSON": b"data: {broken\n\n",
}


@pytest.mark.parametrize("event", ODD_EVENTS.values(), ids=ODD_EVENTS)
@pytest.mark.parametrize("answers", [1, 2])
def test_an_event_means_the_same_whole_and_byte_by_byte(event, answers):
    told = []
    for pieces in ([event], [bytes([byte]) for byte in event]):
        relay = SseRelay(keep_usage=False, answers=answers)
        relay.feed(ODD_EVENTS["text"])
        try:
            out = b"".join(map(relay.feed, pieces))
        except BrokenStream as error:
            out = str(error)
        told.append((out, relay.received, relay.usage, relay.finished, relay.done))
    assert told[0] == told[1]
