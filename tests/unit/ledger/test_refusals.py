from unit.ledger.samples import START

from ridges.ledger import refusals as module
from ridges.ledger.refusals import opened


def record(refusals, number, content=b"{}"):
    refusals.record(
        delivery=f"d{number}", received_at=START, subject="in.RunRequested", reason=f"reason {number}", content=content
    )


def test_the_newest_come_first_and_survive_a_restart(tmp_path):
    path = tmp_path / "state" / "refusals.sqlite"
    with opened(path) as refusals:
        record(refusals, 1)
        record(refusals, 2)
    with opened(path) as refusals:
        assert [kept.reason for kept in refusals.newest(10)] == ["reason 2", "reason 1"]
        assert refusals.newest(1)[0].received_at == START


def test_a_redelivered_message_is_kept_once(tmp_path):
    with opened(tmp_path / "r.sqlite") as refusals:
        record(refusals, 1)
        record(refusals, 1)
        assert len(refusals.newest(10)) == 1


def test_the_table_is_bounded_in_rows_and_in_content(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 5)
    with opened(tmp_path / "r.sqlite") as refusals:
        for number in range(20):
            record(refusals, number, b"\xff" * 100_000)
        kept = refusals.newest(100)
        assert [one.reason for one in kept] == [f"reason {number}" for number in range(19, 14, -1)]
        assert len(kept[0].content) == module.CONTENT_CHARS
