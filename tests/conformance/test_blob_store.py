"""The blob store's adapters under one suite; S3 as an HTTP server of this file that speaks the four verbs used."""

import asyncio
import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web
from obstore.store import MemoryStore

from ridges.chassis.blob_files import DEAD_AFTER_S
from ridges.chassis.blob_store import BlobsUrlError, FileBlobStore, MemoryBlobStore, ObjectBlobStore, open_blob_store
from ridges.chassis.pack_files import HEAD
from ridges.chassis.ports import BlobMissing

EMPTY = "sha256:" + hashlib.sha256(b"").hexdigest()


async def got(blobs, digest):
    """The content, or None while it is missing."""
    try:
        return await blobs.get(digest)
    except BlobMissing:
        return None


class BlobStoreSuite:
    """The fixture ``blobs`` gives the store; ``damage(blobs, digest)`` changes what it holds."""

    @pytest.mark.parametrize("content", [b"", b"text", bytes(range(256)) * 5_000])
    async def test_content_comes_back_under_its_digest(self, blobs, content):
        ref = await blobs.put(content, "text/plain")
        assert ref.digest == "sha256:" + hashlib.sha256(content).hexdigest()
        assert (ref.size, ref.media_type) == (len(content), "text/plain")
        assert await blobs.get(ref.digest) == content

    async def test_the_same_content_again_is_the_same_blob(self, blobs):
        assert await blobs.put(b"x", "text/plain") == await blobs.put(b"x", "text/plain")

    async def test_many_writers_of_one_blob_do_not_disturb_each_other(self, blobs):
        refs = await asyncio.gather(*(blobs.put(b"y" * 100_000, "text/plain") for _ in range(20)))
        assert len(set(refs)) == 1
        assert await blobs.get(refs[0].digest) == b"y" * 100_000

    @pytest.mark.parametrize("digest", [EMPTY, "sha256:../../etc/passwd", "", "sha256:" + "A" * 64, "md5:" + "0" * 64])
    async def test_what_is_not_there_is_missing(self, blobs, digest):
        with pytest.raises(BlobMissing):
            await blobs.get(digest)

    async def test_damaged_content_is_never_handed_out_and_can_be_stored_anew(self, blobs):
        ref = await blobs.put(b"precious", "text/plain")
        await self.damage(blobs, ref.digest)
        with pytest.raises(BlobMissing, match="damaged"):
            await blobs.get(ref.digest)
        await blobs.put(b"precious", "text/plain")
        assert await blobs.get(ref.digest) == b"precious"

    async def test_what_is_put_soon_is_there_after_a_flush(self, blobs):
        contents = [b"", b"text", bytes(range(256)) * 5_000, *(b"content %d" % number for number in range(300))]
        refs = await asyncio.gather(*(blobs.put_soon(content, "text/plain") for content in contents))
        again = await blobs.put_soon(b"text", "text/plain")
        await blobs.flush()
        assert again == await blobs.put(b"text", "text/plain") == refs[1]
        assert [await blobs.get(ref.digest) for ref in refs] == contents

    async def test_what_is_put_soon_is_there_soon_without_a_flush(self, blobs):
        ref = await blobs.put_soon(b"soon", "text/plain")
        async with asyncio.timeout(20):
            while await got(blobs, ref.digest) != b"soon":  # noqa: ASYNC110 - another process may store it
                await asyncio.sleep(0.02)

    async def test_a_flush_of_nothing_returns(self, blobs):
        await blobs.flush()

    async def test_ping_says_that_it_can_be_written(self, blobs):
        await blobs.ping()


class TestMemoryBlobStore(BlobStoreSuite):
    @pytest.fixture
    def blobs(self):
        return MemoryBlobStore()

    async def damage(self, blobs, digest):
        blobs.contents[digest] = b"Precious"


class TestFileBlobStore(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, tmp_path):
        return open_blob_store((tmp_path / "my blobs").as_uri())

    async def damage(self, blobs, digest):
        blobs.path_of(digest).write_bytes(b"Precious")

    async def test_the_layout_is_by_digest_and_nothing_else_is_left(self, blobs, tmp_path):
        ref = await blobs.put(b"x", "text/plain")
        digits = ref.digest.removeprefix("sha256:")
        files = [path for path in (tmp_path / "my blobs").rglob("*") if path.is_file()]
        assert files == [tmp_path / "my blobs" / "sha256" / digits[:2] / digits[2:]]
        assert stat.S_IMODE(files[0].stat().st_mode) == 0o644

    async def test_it_is_synced_before_put_returns(self, blobs, monkeypatch):
        synced = []
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
        ref = await blobs.put(b"x", "text/plain")
        path = blobs.path_of(ref.digest)
        assert any("/my blobs/.new/" in name for name in synced), "the content"
        wanted = [str(folder) for folder in (path.parent, path.parent.parent, path.parent.parent.parent)]
        assert [name for name in synced if name in wanted] == wanted, "its name, and the folders that were made for it"

    async def test_what_a_killed_writer_left_is_swept_away_a_day_later_and_nothing_else(self, blobs, tmp_path):
        root = tmp_path / "my blobs"
        left = _killed_while_writing(root)
        assert left, "it was killed between two writes each time"
        kept = {path: path.read_bytes() for path in root.rglob("sha256/*/*")}
        ref = await FileBlobStore(root).put(b"a start on the same day", "text/plain")
        assert all(path.exists() for path in left), "who writes them may be at work elsewhere"
        for path in left:
            os.utime(path, (time.time() - DEAD_AFTER_S - 1,) * 2)
        await blobs.put(b"a start a day later", "text/plain")
        assert list((root / ".new").iterdir()) == []
        assert {path: path.read_bytes() for path in kept} == kept
        assert await blobs.get(ref.digest) == b"a start on the same day"

    async def test_put_soon_fails_nobody_when_the_folder_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("no folder")
        blobs = FileBlobStore(tmp_path / "file")
        ref = await blobs.put_soon(b"x", "text/plain")
        await blobs.flush()
        (tmp_path / "file").unlink()
        await blobs.put_soon(b"y", "text/plain")
        await blobs.flush()
        with pytest.raises(BlobMissing):
            await blobs.get(ref.digest)

    async def test_put_soon_leaves_nothing_else_behind(self, blobs, tmp_path):
        await asyncio.gather(*(blobs.put_soon(b"%d" % (number % 7), "text/plain") for number in range(50)))
        await blobs.flush()
        await blobs.put_soon(b"large" * 400_000, "text/plain")
        await blobs.flush()
        files = [path for path in (tmp_path / "my blobs").rglob("*") if path.is_file()]
        assert sorted(path.stat().st_size for path in files) == [7 * (HEAD.size + 1), 2_000_000], "each content once"
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}

    async def test_a_folder_that_cannot_be_written_fails_the_ping(self, tmp_path):
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(OSError, match="file"):
            await FileBlobStore(tmp_path / "file").ping()


def _killed_while_writing(root):
    """Files that processes left which were killed with -9 in the middle of writing a blob."""
    program = (
        "import asyncio, os, sys; from pathlib import Path; from ridges.chassis.blob_store import FileBlobStore\n"
        "async def main():\n"
        "    store = FileBlobStore(Path(sys.argv[1]))\n"
        "    while True: await store.put(os.urandom(8_000_000), 'text/plain')\n"
        "asyncio.run(main())"
    )
    for _ in range(20):
        writer = subprocess.Popen([sys.executable, "-c", program, str(root)])
        try:
            deadline = time.monotonic() + 20
            while not (left := _files(root / ".new")) and time.monotonic() < deadline:
                time.sleep(0.001)
        finally:
            writer.kill()
            writer.wait()
        if left := _files(root / ".new"):
            return left
    return []


def _files(folder):
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


class TestObjectBlobStore(BlobStoreSuite):
    @pytest.fixture
    def blobs(self):
        return ObjectBlobStore(MemoryStore())

    async def damage(self, blobs, digest):
        await blobs.store.put_async(f"sha256/{digest[7:9]}/{digest[9:]}", b"Precious")


class TestS3(TestObjectBlobStore):
    @pytest.fixture
    async def blobs(self, monkeypatch):
        objects: dict[str, bytes] = {}

        async def answer(request: web.Request) -> web.Response:
            assert "AWS4-HMAC-SHA256" in request.headers["Authorization"]
            if request.method == "PUT":
                objects[request.path] = await request.read()
                return web.Response(headers={"ETag": '"1"'})
            if request.path not in objects:
                return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
            headers = {"ETag": '"1"', "Last-Modified": "Sun, 22 Nov 2026 09:00:00 GMT"}
            return web.Response(body=objects[request.path], headers=headers)

        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        settings = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ALLOW_HTTP": "true", "REGION": "here"}
        for name, value in (settings | {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "secret"}).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield open_blob_store("s3://bucket/some/prefix")
        assert all(path.startswith("/bucket/some/prefix/") for path in objects)
        await runner.cleanup()

    async def test_a_bucket_that_cannot_be_written_fails_the_ping(self, blobs, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(OSError, match="cannot be written"):
            await open_blob_store("s3://bucket").ping()


@pytest.mark.parametrize("url", ["", "/var/blobs", "file://relative/dir", "s3:///prefix", "http://host/x", "ftp://a"])
def test_a_url_that_is_no_blob_store_is_refused_with_an_example(url):
    with pytest.raises(BlobsUrlError, match="file:///"):
        open_blob_store(url)
