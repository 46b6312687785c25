"""Small contents of a directory share files: found by every process at once, whole or absent after any crash."""

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ridges.chassis import pack_files
from ridges.chassis.blob_store import FileBlobStore
from ridges.chassis.pack_files import HEAD, PackWriter
from ridges.chassis.pack_lookup import PackLookup
from ridges.chassis.ports import BlobMissing

WRITES_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from ridges.chassis.blob_store import FileBlobStore

async def main():
    blobs, number = FileBlobStore(Path(sys.argv[1])), 0
    while True:
        refs = [await blobs.put_soon(f"{sys.argv[2]} {number + i} ".encode() * 50, "text/plain") for i in range(100)]
        number += 100
        await blobs.flush()
        print(*(ref.digest for ref in refs), sep="\\n", flush=True)

asyncio.run(main())
"""


def digest(content):
    return hashlib.sha256(content).digest()


def contents_of(name, count):
    return [f"{name} {number} ".encode() * (number % 5 + 1) for number in range(count)]


def written(folder, contents, **sizes):
    writer = PackWriter(folder, **sizes)
    writer.write([(digest(content), content) for content in contents])
    return writer


def all_of(lookup, contents):
    return [lookup.get(digest(content)) for content in contents]


def packs_in(folder):
    return sorted(folder.glob("*.pack"))


async def test_another_process_finds_what_was_packed_a_moment_ago(tmp_path):
    program = (
        "import asyncio, sys; from pathlib import Path; from ridges.chassis.blob_store import FileBlobStore\n"
        "blobs = FileBlobStore(Path(sys.argv[1]))\n"
        "for line in sys.stdin: print(asyncio.run(blobs.get(line.strip())).decode(), flush=True)"
    )
    reader = subprocess.Popen(  # noqa: ASYNC220 - starts at once
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    writers = [FileBlobStore(tmp_path) for _ in range(2)]
    try:
        for number in range(6):
            writer = writers[number % 2]
            ref = await writer.put_soon(b"content %d" % number, "text/plain")
            await writer.flush()
            reader.stdin.write(ref.digest + "\n")
            reader.stdin.flush()
            assert await asyncio.to_thread(reader.stdout.readline) == f"content {number}\n"
    finally:
        reader.kill()
        reader.communicate()
    assert len(packs_in(tmp_path / "packs")) == 2


async def test_long_prompts_share_a_file_too(tmp_path):
    blobs = FileBlobStore(tmp_path)
    contents = [b"%d" % number * 300_000 for number in range(10, 22)]
    refs = [await blobs.put_soon(content, "text/plain") for content in contents]
    await blobs.flush()
    assert [await FileBlobStore(tmp_path).get(ref.digest) for ref in refs] == contents
    assert len(packs_in(tmp_path / "packs")) == 1


def test_what_was_flushed_survives_kill_nine_of_two_writers(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    told = [writer.stdout.readline().strip() for writer in writers for _ in range(500)]
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        told += writer.communicate()[0].split("\n")[:-1]
    lookup = PackLookup(tmp_path / "packs")
    for name in told:
        content = lookup.get(bytes.fromhex(name.removeprefix("sha256:")))
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == name.removeprefix("sha256:")


def test_a_torn_record_is_no_record_wherever_it_is_cut(tmp_path):
    contents = contents_of("x", 3)
    written(tmp_path, contents)
    (pack,) = packs_in(tmp_path)
    whole = pack.read_bytes()
    last = HEAD.size + len(contents[-1])
    for missing in range(1, last + 1):
        pack.write_bytes(whole[:-missing])
        assert all_of(PackLookup(tmp_path), contents) == [*contents[:2], None]
    pack.write_bytes(whole[:-last] + bytes(last))
    assert all_of(PackLookup(tmp_path), contents) == [*contents[:2], None]
    written(tmp_path, contents[2:])
    assert all_of(PackLookup(tmp_path), contents) == contents


def test_a_reader_that_saw_half_a_record_sees_it_whole_later(tmp_path):
    contents = contents_of("x", 3)
    written(tmp_path, contents)
    (pack,) = packs_in(tmp_path)
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-3])
    lookup = PackLookup(tmp_path)
    assert lookup.get(digest(contents[-1])) is None
    pack.write_bytes(whole)
    assert lookup.get(digest(contents[-1])) == contents[-1]


@pytest.mark.parametrize("index", ["kept", "absent", b"", b"RdIndex1", b"x" * 500, b"RdIndex1" + b"\xff" * 52])
def test_full_packs_are_found_with_their_index_and_without(tmp_path, index):
    contents = contents_of("x", 95)
    early = PackLookup(tmp_path)
    written(tmp_path, contents[:7], most_records=10)
    assert early.get(digest(contents[0])) == contents[0]
    written(tmp_path, contents[7:], most_records=10)
    assert len(packs_in(tmp_path)) == 10
    indexes = sorted(tmp_path.glob("*.index"))
    assert len(indexes) == 8
    for path in indexes if index != "kept" else ():
        path.unlink() if index == "absent" else path.write_bytes(index)
    assert all_of(PackLookup(tmp_path), contents) == contents
    assert all_of(early, contents) == contents
    assert early.get(digest(b"never stored")) is None


def test_a_pack_that_its_writer_left_is_indexed_by_the_next_one_and_may_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_files, "LEFT_BEHIND_S", -1.0)
    first, second, third = contents_of("a", 20), contents_of("b", 20), contents_of("c", 20)
    writer = written(tmp_path, first)
    written(tmp_path, second)
    assert len(list(tmp_path.glob("*.index"))) == 1
    fresh = PackLookup(tmp_path)
    assert all_of(fresh, first + second) == first + second
    writer.write([(digest(content), content) for content in third])
    assert all_of(fresh, first + second + third) == first + second + third


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_many_small_packs_hold_no_file_open(tmp_path):
    """As many starts of gateways leave them: a reader with a thousand open files could read no more."""
    contents = [bytes([number]) * 100 for number in range(40)]
    for content in contents:
        written(tmp_path, [content], most_records=1)
    lookup, before = PackLookup(tmp_path), open_files()
    assert all_of(lookup, contents) == contents
    assert open_files() <= before + 1


def test_a_full_disk_loses_what_did_not_fit_and_nothing_else(tmp_path, monkeypatch):
    contents = contents_of("x", 9)
    writer = written(tmp_path, contents[:3])
    lookup = PackLookup(tmp_path)
    write, room = os.write, [HEAD.size + len(contents[3]) + 10]

    def on_a_small_disk(handle, data):
        if not room:
            raise OSError(errno.ENOSPC, "no space")
        return write(handle, bytes(data)[: room.pop()])

    with monkeypatch.context() as full:
        full.setattr(os, "write", on_a_small_disk)
        with pytest.raises(OSError, match="no space"):
            writer.write([(digest(content), content) for content in contents[3:6]])
    assert all_of(lookup, contents[:6]) == [*contents[:4], None, None]
    writer.write([(digest(content), content) for content in contents[4:]])
    assert all_of(lookup, contents) == contents
    assert len(packs_in(tmp_path)) == 1


async def test_damaged_content_is_never_handed_out_and_can_be_stored_anew(tmp_path):
    blobs = FileBlobStore(tmp_path)
    refs = [await blobs.put_soon(content, "text/plain") for content in (b"precious", b"other")]
    await blobs.flush()
    (pack,) = packs_in(tmp_path / "packs")
    pack.write_bytes(pack.read_bytes().replace(b"precious", b"Precious"))
    with pytest.raises(BlobMissing, match="damaged"):
        await blobs.get(refs[0].digest)
    assert await blobs.get(refs[1].digest) == b"other"
    await blobs.put(b"precious", "text/plain")
    assert await blobs.get(refs[0].digest) == b"precious"


async def test_packs_that_were_removed_are_missing_and_disturb_nobody(tmp_path):
    blobs = FileBlobStore(tmp_path)
    ref = await blobs.put_soon(b"old", "text/plain")
    await blobs.flush()
    assert await blobs.get(ref.digest) == b"old"
    for path in packs_in(tmp_path / "packs"):
        path.unlink()
    with pytest.raises(BlobMissing, match="no blob"):
        await blobs.get(ref.digest)


async def test_many_small_contents_are_few_files(tmp_path):
    blobs = FileBlobStore(tmp_path)
    refs = await asyncio.gather(*(blobs.put_soon(content, "text/plain") for content in contents_of("x", 2_000)))
    await blobs.flush()
    assert len(packs_in(tmp_path / "packs")) == 1
    assert [await blobs.get(ref.digest) for ref in refs] == contents_of("x", 2_000)
