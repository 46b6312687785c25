"""What the embedded system keeps of its log's files before nats-server touches them."""

import hashlib
import struct

import pytest

from ridges.chassis.jetstream.block_files import block_files, stored_events
from ridges.chassis.jetstream.highway_hash import highway_hash_64
from ridges.cli.embedded.log_files import LogFiles
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError


def record(position):
    """As nats-server writes it into the first block."""
    subject, headers, content = b"ev.r.X", b"NATS/1.0\r\nNats-Msg-Id: %d\r\n\r\n" % position, b"{%d}" % position
    length = 22 + len(subject) + 4 + len(headers) + len(content) + 8
    head = struct.pack("<IQQH", length | 1 << 31, position, 7, len(subject))
    key = hashlib.sha256(b"EVENTS-1").digest()
    hashed = highway_hash_64(key, head[4:20] + subject + headers + content)
    return head + subject + struct.pack("<I", len(headers)) + headers + content + struct.pack("<Q", hashed)


@pytest.fixture
def files(tmp_path):
    """Of a log with five events."""
    state = StateDir(tmp_path)
    state.create()
    made = LogFiles(state)
    (made.live / "msgs").mkdir(parents=True)
    (made.live / "msgs" / "1.blk").write_bytes(b"".join(map(record, range(1, 6))))
    return made


def positions(folder):
    return [position for position, *_ in stored_events(block_files(folder))]


def write(files, content):
    (files.live / "msgs" / "1.blk").write_bytes(content)


def read(files):
    return (files.live / "msgs" / "1.blk").read_bytes()


def test_a_log_that_grows_is_well(files):
    files.copy()
    write(files, read(files) + record(6))
    files.refuse_cut()
    files.copy()
    files.refuse_cut()
    assert not files.kept.exists()


@pytest.mark.parametrize("grown", [b"", b"".join(map(record, range(3, 9)))], ids=["cut", "cut and gone on with"])
def test_whole_events_that_were_cut_off_are_kept_and_the_start_refused(files, grown):
    whole = read(files)
    damaged = whole.replace(b"{3}", b"{7}")
    write(files, damaged)
    files.copy()
    write(files, whole[: 2 * len(record(1))] + grown.replace(b"{5}", b"{x}"))
    with pytest.raises(CliError, match=r"the first at position 4 .*restore --into-new"):
        files.refuse_cut()
    assert positions(files.kept) == [1, 2, 4, 5]
    with pytest.raises(CliError, match=r"cut off events of its damaged log"):
        files.refuse_damaged()


def test_a_torn_record_is_no_loss_and_asked_about_once(files):
    whole = read(files)
    write(files, whole + record(6)[:-3])
    files.copy()
    write(files, whole)
    files.refuse_cut()
    write(files, whole + record(6))
    files.refuse_cut()
    assert not files.kept.exists()


def test_a_copy_is_not_made_anew_over_what_was_cut_off(files):
    whole = read(files)
    write(files, whole.replace(b"{3}", b"{7}"))
    files.copy()
    write(files, whole[: 2 * len(record(1))])
    files.copy()
    with pytest.raises(CliError, match="cut off whole events"):
        files.refuse_cut()


def test_what_was_moved_away_is_found_again_after_an_interruption(files):
    first = files.move_away()
    assert [folder.name for folder in first] == ["EVENTS"]
    assert not files.live.exists()
    with pytest.raises(CliError, match="was interrupted"):
        files.refuse_damaged()
    assert files.move_away() == first
    files.restored()
    files.refuse_damaged()
    assert positions(first[0]) == [1, 2, 3, 4, 5]
