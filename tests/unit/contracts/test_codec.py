"""Events to bytes and back, and what stands in the way of reading one."""

import json

import pytest
from hypothesis import given
from unit.contracts.event_strategies import BY_TYPE, any_event

from ridges.contracts import codec
from ridges.contracts.codec import UndecodableEvent, decode, encode
from ridges.contracts.events import EVENT_TYPES, RunCancelled

CANCELLED = {
    "type": "RunCancelled",
    "id": "1",
    "run_id": "a",
    "time": "2026-11-22T09:00:00Z",
    "reason": "x",
}


def stored(**changes):
    return json.dumps(CANCELLED | changes).encode()


def test_every_type_is_covered_here():
    assert set(BY_TYPE) == set(EVENT_TYPES.values())


@given(any_event)
def test_an_event_comes_back_equal(event):
    content = encode(event)
    assert decode(content) == event
    assert json.loads(content)["type"] == type(event).__name__


def test_fields_of_a_later_release_are_tolerated():
    assert decode(stored(more={"a": [1]})) == decode(stored())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not an event"),
        (b"\xff\xfe", "not an event"),
        (b"[1]", "not an event"),
        (b"{}", "not an event: .*`type`"),
        (stored(type="Unheard"), "unknown event type 'Unheard'; a newer release wrote it"),
        (stored(version=2), "RunCancelled version 2 is newer than 1: update this service"),
        (stored(reason=1), "not an event: .*reason"),
        (stored(time="yesterday"), "not an event: .*time"),
        (stored(time="2026-11-22T09:00:00"), "not an event: .*timezone.*time"),
        (stored(version=0), "not an event"),
    ],
)
def test_what_cannot_be_read_says_why(content, told):
    with pytest.raises(UndecodableEvent, match=told):
        decode(content)


def test_older_versions_are_brought_up_step_by_step(monkeypatch):
    """As it will be when RunCancelled has its third version: ``why`` became ``because`` became ``reason``."""
    monkeypatch.setattr(codec, "CURRENT_VERSION", codec.CURRENT_VERSION | {"RunCancelled": 3})
    upcasts = {
        ("RunCancelled", 1): lambda fields: fields | {"because": fields.pop("why")},
        ("RunCancelled", 2): lambda fields: fields | {"reason": fields.pop("because") + "!"},
    }
    monkeypatch.setattr(codec, "UPCASTS", upcasts)
    old = {key: value for key, value in CANCELLED.items() if key != "reason"}
    event = decode(json.dumps(old | {"why": "tired"}).encode())
    assert isinstance(event, RunCancelled)
    assert (event.reason, event.version) == ("tired!", 3)
    assert decode(json.dumps(old | {"because": "tired", "version": 2}).encode()) == event
    assert decode(stored(version=3, reason="tired!")) == event
