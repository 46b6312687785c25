"""The archive is a proved second copy: rebuilding from it equals rebuilding from the log, a flipped bit is named."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from unit.ledger.samples import OTHER_RUN, RUN, Author, recorded
from unit.ledger.test_costs import events_of, steps
from unit.ledger.test_log_check import a_good_run
from unit.ledger.test_rebuild import a_whole_run, live_tables, result_of

from ridges.chassis.blob_store import FileBlobStore, MemoryBlobStore
from ridges.ledger import archive
from ridges.ledger.archive import ArchiveDamaged
from ridges.ledger.passes import sealing
from ridges.ledger.passes.log_source import raw_of
from ridges.ledger.passes.mending import mend_segments
from ridges.ledger.passes.reporting import PassFailed
from ridges.ledger.passes.sealing import rebuild_from_archive, seal_log, sealed_segments
from ridges.ledger.passes.verify import verify
from ridges.ledger.projections.compare import first_difference
from ridges.ledger.projections.replay import read_replay_part
from ridges.ledger.projections.slim import Whole, WholeRun

NOW = datetime(2026, 2, 1, tzinfo=UTC)


def quiet(_progress):
    """Nobody looks."""


def seal(store, log, size=None):
    """Prove what is sealed, and seal everything after it in segments of the size."""
    sealed = sealed_segments(store)
    raw = [raw_of(each) for each in log]
    found = mend_segments(sealed, lambda after, until: iter([raw[after:until]]), store=store, report=quiet)
    rest = [raw_of(each) for each in log[max(sealed[-1].last - 1, 0) if sealed else 0 :]]
    with pytest.MonkeyPatch.context() as patch:
        if size is not None:
            patch.setattr(archive, "SEGMENT_EVENTS", size)
        return seal_log(
            [rest] if rest else [], sealed, store=store, total=len(rest), now=NOW, report=quiet, findings=found
        )


def again(store, log, path, **options):
    sealed = sealed_segments(store)
    tail = [raw_of(each) for each in log[sealed[-1].last if sealed else 0 :]]
    return rebuild_from_archive(
        sealed, [tail] if tail else [], path, store=store, total=len(log), report=quiet, **options
    )


@settings(max_examples=60, deadline=None)
@given(script=steps, size=st.integers(1, 25), sealed=st.integers(0, 60))
def test_archive_and_tail_give_the_same_tables_as_the_log_over_any_events(script, size, sealed):
    log = recorded(*events_of(script))
    store = MemoryBlobStore()
    seal(store, log[:sealed], size)
    with TemporaryDirectory() as folder:
        live, replayed, whole = (Path(folder, name) for name in ("live", "replayed", "whole"))
        live_tables(live, log)
        assert again(store, log, replayed).events == len(log)
        assert first_difference(live, replayed) is None
        again(store, log, whole, whole_events=True)
        assert first_difference(live, whole) is None


def test_sealing_goes_on_where_it_stopped_and_chains(tmp_path):
    author, store = Author(), FileBlobStore(tmp_path)
    log = recorded(*a_whole_run(author), *a_whole_run(author, OTHER_RUN))
    assert seal(store, log[:5], 2).events == 5
    assert seal(store, log, 4).events == 11
    assert seal(store, log).events == 0
    found = sealed_segments(store)
    assert [(segment.first, segment.last) for segment in found] == [(1, 2), (3, 4), (5, 5), (6, 9), (10, 13), (14, 16)]
    assert [segment.previous for segment in found[1:]] == [segment.chain for segment in found[:-1]]
    events = [event for segment in found for event in asyncio.run(archive.events_of(store, segment))]
    assert [(event.event_id, event.content) for event in events] == [(each.event.id, raw_of(each)[3]) for each in log]


def test_another_log_or_a_log_with_a_gap_is_not_sealed():
    author, store = Author(), MemoryBlobStore()
    seal(store, recorded(*a_whole_run(author)))
    other = Author()
    other.clock.ids = 1000
    with pytest.raises(PassFailed, match="of another log"):
        seal(store, recorded(*a_whole_run(other), *a_whole_run(other, OTHER_RUN)))
    chunk = [raw_of(each) for each in recorded(*a_whole_run(author))]
    with pytest.raises(PassFailed, match="jumps from position 1 to 3"):
        seal_log([[chunk[0], chunk[2]]], [], store=MemoryBlobStore(), total=2, now=NOW, report=quiet)


def good_archive(tmp_path):
    """A log without findings but for its blobs, its archive in files, segments of three events."""
    store, log = FileBlobStore(tmp_path), recorded(*a_good_run(Author()))
    seal(store, log, 3)
    return store, log, sealed_segments(store)


def archive_findings(store, chunk):
    result = verify([chunk], total=len(chunk), grace_s=0, blobs=store, report=quiet)
    return [finding for finding in result.findings if finding.kind == "archive"]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def test_a_log_and_its_archive_that_agree_have_no_findings(tmp_path):
    store, log, _ = good_archive(tmp_path)
    assert archive_findings(store, list(map(raw_of, log))) == []


@pytest.mark.parametrize("part", ["events", "replay"])
def test_a_flipped_bit_in_the_archive_is_found_and_its_segment_named(tmp_path, part):
    store, log, segments = good_archive(tmp_path)
    flip_a_bit(store.path_of(getattr(segments[1], part).digest))
    [finding] = archive_findings(store, list(map(raw_of, log)))
    assert "segment 4-6" in finding.detail
    assert "the log itself is as it was sealed" in finding.detail
    with pytest.raises(ArchiveDamaged, match="segment 4-6"):
        again(store, log, tmp_path / "t", whole_events=part == "events")
    assert "`ridges ledger archive` makes the segment again" in finding.detail


@pytest.mark.parametrize("part", ["events", "replay"])
@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink], ids=["flipped", "gone"])
@pytest.mark.parametrize("number", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_damaged_segment_is_made_again_from_the_log_and_the_chain_stays(tmp_path, part, damage, number):
    store, log, segments = good_archive(tmp_path)
    damage(store.path_of(getattr(segments[number], part).digest))
    archived = seal(store, log)
    [finding] = archived.findings
    assert (archived.ok, finding.severity, segments[number].title in finding.detail) == (True, "warning", True)
    assert "1 damaged segments were made again" in archived.summary
    assert sealed_segments(store) == segments
    assert archive_findings(store, list(map(raw_of, log))) == []
    assert seal(store, log).findings == ()


@pytest.mark.parametrize("number", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_segment_that_the_log_cannot_mend_is_an_error_of_archiving(tmp_path, number):
    store, log, segments = good_archive(tmp_path)
    flip_a_bit(store.path_of(segments[number].events.digest))
    other = Author()
    other.clock.ids = 10**6
    position = segments[number].first - 1
    [forged] = recorded(other.requested())
    changed = [*log[:position], structs.replace(forged, position=position + 1), *log[position + 1 :]]
    archived = seal(store, changed)
    [finding] = archived.findings
    assert (archived.ok, finding.severity) == (False, "error")
    assert "the log is not as it was sealed either" in finding.detail
    assert "1 older segments are damaged" in archived.summary


def test_a_flipped_bit_in_the_log_is_found_and_its_event_named(tmp_path):
    store, log, _ = good_archive(tmp_path)
    chunk = list(map(raw_of, log))
    position, subject, headers, content = chunk[4]
    chunk[4] = (position, subject, headers, content.replace(b'"cost_nano_usd":100', b'"cost_nano_usd":101'))
    [finding] = archive_findings(store, chunk)
    assert (finding.position, finding.event_id) == (5, log[4].event.id)
    assert "the log was changed" in finding.detail


def test_a_log_that_lost_its_end_is_found(tmp_path):
    store, log, _ = good_archive(tmp_path)
    [finding] = archive_findings(store, list(map(raw_of, log[:7])))
    assert "the log ends at position 7, the archive holds events up to 9" in finding.detail


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "does not follow"),
        (lambda path: path.write_bytes(b"{"), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"sha256:", b"sha256:0", 1)[:-1]), "cannot be read"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'"previous": "sha256:', b'"previous": "sha256;')),
            "does not follow",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'"chain": "sha256:', b'"chain": "sha256;')),
            "was changed",
        ),
    ],
    ids=["gone", "garbage", "digest", "previous", "chain"],
)
def test_a_description_that_was_changed_is_found(tmp_path, damage, told):
    store, log, segments = good_archive(tmp_path)
    damage(tmp_path / "named" / segments[1].name)
    [first, *_] = archive_findings(store, list(map(raw_of, log)))
    assert told in first.detail
    with pytest.raises(ArchiveDamaged, match=told):
        seal(store, log)
    named = re.search(r"remove named/(\S+) and all later descriptions", first.detail)[1]
    for path in (tmp_path / "named" / "archive").iterdir():
        if f"archive/{path.name}" >= named:
            path.unlink()
    seal(store, log, 3)
    assert [segment.chain for segment in sealed_segments(store)] == [segment.chain for segment in segments]
    assert archive_findings(store, list(map(raw_of, log))) == []


def test_a_run_that_is_whole_within_a_segment_is_one_item_and_late_events_still_count(tmp_path):
    author, store = Author(), MemoryBlobStore()
    whole = a_whole_run(author)[:4] + a_whole_run(author)[5:7]
    log = recorded(*whole, *a_whole_run(author, OTHER_RUN)[:5], author.made("late"), author.started(OTHER_RUN, 2))
    seal(store, log[:11])
    [segment] = sealed_segments(store)
    parts = read_replay_part(asyncio.run(archive.replay_of(store, segment)))
    assert [(part.run_id, type(part.items[0])) for part in parts] == [(RUN, WholeRun), (OTHER_RUN, Whole)]
    seal(store, log)
    live_tables(tmp_path / "live", log)
    again(store, log, tmp_path / "again")
    assert first_difference(tmp_path / "live", tmp_path / "again") is None


def test_a_run_with_events_before_its_request_is_folded_event_by_event(tmp_path):
    author, store = Author(), MemoryBlobStore()
    log = recorded(author.made("early"), *a_whole_run(author)[:4], *a_whole_run(author)[5:7])
    seal(store, log[:1])
    seal(store, log)
    live_tables(tmp_path / "live", log)
    assert again(store, log, tmp_path / "again").ok
    assert first_difference(tmp_path / "live", tmp_path / "again") is None


def test_a_replay_part_of_other_tables_is_not_used(tmp_path, monkeypatch):
    log, store = recorded(*a_whole_run(Author())), MemoryBlobStore()
    seal(store, log)
    live_tables(tmp_path / "live", log)
    monkeypatch.setattr(sealing, "VERSION", -1)
    for name in [name for name in store.contents if name == sealed_segments(store)[0].replay.digest]:
        del store.contents[name]
    assert again(store, log, tmp_path / "again").ok
    assert first_difference(tmp_path / "live", tmp_path / "again") is None


async def test_the_running_ledger_archives_and_rebuilds_from_it(wired):
    await wired.add(*a_whole_run(wired.author))
    sealed = await result_of(wired.ledger.passes.archive())
    assert (sealed.ok, sealed.events) == (True, 8), sealed
    await wired.add(*a_whole_run(wired.author, OTHER_RUN))
    result = await result_of(wired.ledger.rebuilder.rebuild(verify=True, source="archive"))
    assert result.ok, result
    assert "8 of them from the archive" in result.summary
    assert wired.queries.row(RUN).cost_nano_usd == wired.queries.row(OTHER_RUN).cost_nano_usd == 110
