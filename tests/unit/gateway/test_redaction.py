"""A provider's key never passes, however it is encoded and however the network cuts what the provider says."""

import json
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.gateway.redaction import LONGEST_LINE, RedactedStream, Redaction

KEY = "sk-abc/abcsk-1"
KEYS = [KEY, "sk-or-v1-0123456789abcdef0123456789abcdef", "a+b/c=d?e%f&g", "12345678", 'quo"ted\\key']


def json_escaped(key, every=1):
    return "".join(f"\\u{ord(letter):04x}" if at % every == 0 else letter for at, letter in enumerate(key))


def percent_encoded(key, every=1):
    return "".join(f"%{ord(letter):02x}" if at % every == 0 else letter for at, letter in enumerate(key))


SPELLINGS = {
    "plain": lambda key: key,
    "JSON": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "every character escaped": json_escaped,
    "upper-case escapes": lambda key: json_escaped(key).replace("a", "A").replace("d", "D"),
    "every third character escaped": lambda key: json_escaped(key, 3),
    "JSON in JSON": lambda key: json.dumps(json_escaped(key, 2))[1:-1],
    "hex": lambda key: key.encode().hex(),
    "upper-case hex": lambda key: key.encode().hex().upper(),
    "a URL": lambda key: quote(key, safe=""),
    "percent": percent_encoded,
    "some percent": lambda key: percent_encoded(key, 4),
    **{
        f"{name} {before}": lambda key, encode=encode, before=before: encode(b"x" * before + key.encode()).decode()
        for name, encode in (("base64", b64encode), ("base64 for URLs", urlsafe_b64encode))
        for before in range(4)
    },
    "base64 in a header": lambda key: b64encode(f"user:{key}, and more".encode()).decode(),
    "base64 in JSON": lambda key: b64encode(key.encode()).decode().replace("/", "\\/"),
}


def relayed(pieces, key=KEY):
    stream = RedactedStream(Redaction(key))
    return b"".join([*(stream.feed(piece) for piece in pieces), stream.rest()])


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_masked(key, spelling):
    spelled = SPELLINGS[spelling](key)
    shown = Redaction(key).whole(f'{{"error": "bad key {spelled}!"}}'.encode()).decode()
    masked = shown.removeprefix('{"error": "bad key ').removesuffix('!"}')
    assert "***" in masked
    whole = "base64" not in spelling
    assert masked == "***" if whole else len(masked.replace("***", "")) < len(spelled) - 4 * len(key) // 3 + 4


@given(st.data())
def test_any_mixture_of_escapes_is_masked(data):
    ways = (str, json_escaped, percent_encoded, lambda letter: json_escaped(letter).replace("u", "u").replace("c", "C"))
    spelled = "".join(data.draw(st.sampled_from(ways))(letter) for letter in KEY)
    assert Redaction(KEY).whole(f"({spelled})".encode()) == b"(***)"


@given(st.data())
def test_the_key_is_masked_wherever_the_pieces_are_cut(data):
    spelled = [spelling(KEY) for spelling in SPELLINGS.values()]
    parts = st.sampled_from([*spelled, "s", "sk-", "sk-abc", "data: x", "\n\n", KEY[:-1], "\\u0073", "%73k"])
    text = "".join(data.draw(st.lists(parts, max_size=12))).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert relayed(pieces) == b"".join(map(Redaction(KEY).whole, text.splitlines(keepends=True)))
    assert KEY.encode() not in relayed(pieces)


def test_whole_events_are_not_held_back():
    stream = RedactedStream(Redaction(KEY))
    for piece in (b'data: {"a": "sk-"}\n\n', b"data: sk-\r\n", b": comment\n"):
        assert stream.feed(piece) == piece
    assert stream.feed(b"data: a\n\ndata: s") == b"data: a\n\n"
    assert stream.feed(b"k\n") == b"data: sk\n"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_key_is_found_after_many_events_that_have_none(spelling):
    event = 'data: {"id": "x", "choices": [{"delta": {"content": "%s"}}]}\n\n'
    events = [(event % word).encode() for word in "abcdefgh"]
    told = events[0].replace(b'"a"', f'"{SPELLINGS[spelling](KEY)}"'.encode())
    stream = RedactedStream(Redaction(KEY))
    assert [stream.feed(event) for event in events] == events
    assert b"***" in stream.feed(told)
    assert stream.feed(events[0]) == events[0]


@given(st.data())
def test_what_begins_like_other_events_is_searched_from_where_a_key_may_begin(data):
    cut = data.draw(st.integers(0, len(KEY)))
    stream = RedactedStream(Redaction(KEY))
    for word in "abc":
        stream.feed(f"data: {KEY[:cut]}{word if cut < len(KEY) else ''}\n".encode())
    assert KEY.encode() not in stream.feed(f"data: {KEY}\n".encode())


def test_a_line_without_end_does_not_fill_the_memory():
    stream = RedactedStream(Redaction(KEY))
    shown = sum(len(stream.feed(b"x" * 65_536)) for _ in range(256))
    assert 256 * 65_536 - shown <= LONGEST_LINE


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cut_text_does_not_end_in_a_part_of_the_key(spelling):
    spelled = SPELLINGS[spelling](KEY)
    for length in range(1, len(spelled)):
        shown = Redaction(KEY).head(f"wrong key {spelled[:length]}".encode())
        assert shown.startswith(b"wrong key")
        if not spelling.startswith("base64"):
            assert shown == b"wrong key "


@pytest.mark.parametrize(
    "text", ["100 % of \\u00e9t\\u00e9", "%d %s %2F", '\\u003cb\\u003e {"a": "\\u0073k-abc"}', "sk-abc"]
)
def test_ordinary_escapes_stay(text):
    assert Redaction(KEY).whole(text.encode()) == text.encode()
    assert relayed([text.encode()]) == text.encode()


@pytest.mark.parametrize("key", [None, "", "none", "ollama"])
def test_without_a_secret_nothing_is_changed(key):
    text = b"ollama has none"
    assert Redaction(key).whole(text) == Redaction(key).head(text) == text
    assert RedactedStream(Redaction(key)).feed(text) == text
