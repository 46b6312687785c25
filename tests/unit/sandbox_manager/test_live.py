"""Live logs: the end of what was written, with what is missing said."""

import os

from hypothesis import given
from hypothesis import strategies as st

from ridges.sandbox_manager.inside import live_log
from ridges.sandbox_manager.inside.live_log import MOST, LiveLog
from ridges.sandbox_manager.inside.outbox import Outbox
from ridges.sandbox_manager.inside.poller import Poller
from ridges.sandbox_manager.live import LogTail


def test_pieces_are_read_one_after_the_other():
    tail = LogTail()
    tail.add(0, b"one ")
    text, position, gone = tail.after(0)
    tail.add(4, b"two")
    assert (text, gone, tail.after(position)) == ("one ", 0, ("two", 7, 0))
    assert tail.after(7) == ("", 7, 0)
    assert tail.after(10_000) == ("", 7, 0)


def test_only_the_end_is_kept_and_what_is_gone_is_counted():
    tail = LogTail(most=10)
    tail.add(0, b"0123456789abcdef")
    assert tail.after(0) == ("6789abcdef", 16, 6)
    assert tail.after(12) == ("cdef", 16, 0)


def test_a_gap_is_said():
    tail = LogTail()
    tail.add(0, b"start")
    tail.add(105, b"end")
    assert tail.after(0)[0] == "start\n<100 bytes not shown live>\nend"


@given(st.text(max_size=50), st.integers(min_value=1, max_value=5))
def test_no_character_is_cut_in_two(text, size):
    content, tail, read, position = text.encode(), LogTail(), "", 0
    for offset in range(0, len(content), size):
        tail.add(offset, content[offset : offset + size])
        piece, position, _ = tail.after(position)
        read += piece
    assert read == text


def frames_of(stream: bytes) -> list[tuple[int, bytes]]:
    found = []
    while stream:
        assert stream[:1] == b"L"
        size = int.from_bytes(stream[1:9], "big")
        found.append((int.from_bytes(stream[9:17], "big"), stream[17 : 9 + size]))
        stream = stream[9 + size :]
    return found


def test_a_manager_that_does_not_read_is_never_waited_for_and_no_frame_is_torn(monkeypatch):
    monkeypatch.setattr(live_log, "EVERY_S", 0.0)
    read_end, write_end = os.pipe()
    poller = Poller()
    outbox = Outbox(write_end, poller)
    live = LiveLog(outbox)
    for n in range(100):
        live.add(bytes([65 + n % 26]) * 10_000)
        live.tell()
        poller.poll(0)
    os.set_blocking(read_end, False)
    told = os.read(read_end, 1 << 20)
    live.tell()
    outbox.finish()
    told += os.read(read_end, 1 << 20)
    frames = frames_of(told)
    assert 1 < len(frames) < 100
    assert all(len(content) <= MOST for _, content in frames)
    assert os.get_blocking(write_end)
    os.close(read_end)
    os.close(write_end)


def test_it_is_quiet_while_nothing_is_written():
    read_end, write_end = os.pipe()
    outbox = Outbox(write_end, Poller())
    live = LiveLog(outbox)
    assert live.due_in_s is None
    live.add(b"x")
    assert 0 < live.due_in_s <= live_log.EVERY_S
    live.tell()
    os.set_blocking(read_end, False)
    outbox.finish()
    os.close(write_end)
    assert os.read(read_end, 100) == b""
    os.close(read_end)


def test_a_large_frame_goes_on_its_way_as_fast_as_the_manager_reads():
    read_end, write_end = os.pipe()
    poller = Poller()
    outbox = Outbox(write_end, poller)
    outbox.put(b"D", b"x" * 1_000_000)
    told, turns = b"", 0
    while not outbox.idle:
        told += os.read(read_end, 1 << 20)
        poller.poll(1)
        turns += 1
    outbox.put(b"L", b"after")
    os.set_blocking(read_end, False)
    told += os.read(read_end, 1 << 20)
    assert (told[:1], len(told), told[-5:]) == (b"D", 9 + 1_000_000 + 9 + 5, b"after")
    assert turns < 100
    os.close(read_end)
    os.close(write_end)
