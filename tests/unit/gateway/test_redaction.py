"""A provider's key never passes, however the network cuts what the provider says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.gateway.redaction import RedactedStream, Redaction

KEY = "sk-abc/abcsk-1"


def relayed(pieces):
    stream = RedactedStream(Redaction(KEY))
    return b"".join([*(stream.feed(piece) for piece in pieces), stream.rest()])


@given(st.data())
def test_the_key_is_masked_wherever_the_pieces_are_cut(data):
    parts = st.sampled_from([KEY, KEY.replace("/", "\\/"), "s", "sk-", "sk-abc", "data: x", "\n\n", KEY[:-1]])
    text = "".join(data.draw(st.lists(parts, max_size=12))).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert relayed(pieces) == Redaction(KEY).whole(text)
    assert KEY.encode() not in relayed(pieces)


def test_what_cannot_be_the_key_is_not_held_back():
    stream = RedactedStream(Redaction(KEY))
    for piece in (b'data: {"a": "sk-"}\n\n', b"sk-x", b"abc"):
        assert stream.feed(piece) == piece


def test_a_cut_text_does_not_end_in_half_a_key():
    assert Redaction(KEY).head(f"wrong key {KEY[:6]}".encode()) == b"wrong key "


@pytest.mark.parametrize("key", [None, "", "none", "ollama"])
def test_without_a_secret_nothing_is_changed(key):
    text = b"ollama has none"
    assert Redaction(key).whole(text) == text
    assert RedactedStream(Redaction(key)).feed(text) == text
