"""What a log that moves says of itself."""

import pytest

from ridges.chassis.jetstream.fence import next_epoch, refusal
from ridges.chassis.jetstream.place import without_credentials


@pytest.mark.parametrize(
    ("epoch", "following"), [("abc", "abc+1"), ("abc+1", "abc+2"), ("a-b+9", "a-b+10"), ("+", "++1"), ("", "+1")]
)
def test_each_move_counts_the_epoch_up_and_keeps_its_name(epoch, following):
    assert next_epoch(epoch) == following


@pytest.mark.parametrize("record", ["jetstream", "kurrentdb", None])
def test_a_log_of_record_is_not_refused(record):
    assert refusal({"log_of_record": record} if record else {}, "nats://old") is None


def test_the_refusal_names_the_place_the_epoch_and_the_variables():
    moved = {"log_of_record": "moved", "moved_to": "nats://new:4222", "next_epoch": "a+1"}
    told = refusal(moved, "nats://old:4222")
    assert told is not None
    for part in ("nats://old:4222", "RIDGES_NATS_URL=nats://new:4222", "RIDGES_LOG_EPOCH=a+1"):
        assert part in told
    to_kurrentdb = refusal(moved | {"moved_to": "kurrentdb://new:2113"}, "nats://old:4222")
    assert to_kurrentdb is not None
    assert "RIDGES_EVENT_STORE_URL=kurrentdb://new:2113" in to_kurrentdb
    assert "--abort" in (refusal(moved | {"log_of_record": "moving"}, "nats://old:4222") or "")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("nats://user:pass@host:4222", "nats://host:4222"),
        ("nats://token@host:4222,nats://u:p@other:4222", "nats://host:4222,nats://other:4222"),
        ("user:pass@host:4222", "host:4222"),
        ("nats://host:4222", "nats://host:4222"),
    ],
)
def test_addresses_hold_no_credentials(url, address):
    assert without_credentials(url) == address
