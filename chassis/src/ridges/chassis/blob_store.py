"""Content-addressed blobs in a local directory (``file:///dir``), in S3 (``s3://bucket/prefix``) or in memory.

Layout: ``sha256/ab/<the other 62 digits>``; in a directory small contents of ``put_soon`` are in ``packs`` (ADR 30).
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import ObjectStore, from_url

from ridges.chassis.blob_files import sweep, sync_file_system, write_all, write_durably
from ridges.chassis.pack_files import PackWriter
from ridges.chassis.pack_lookup import PackLookup
from ridges.chassis.ports import BlobMissing, NamedBlobStore
from ridges.chassis.writing_behind import Waiting, WritingBehind
from ridges.contracts.blobs import DIGEST, BlobRef, digest_of, ref_to

PING_NAME = "ping"
PACKS = "packs"
"""Folder of the small contents that were stored many together."""
NAMED = "named"
"""Folder of the few contents that are found by name."""
HASHED_HERE = 512 * 1024
"""Larger contents are hashed in a thread: below, 0.3 ms at most, going there and back costs more than it frees."""
PACKED = 1024 * 1024
"""Larger contents are files of their own also when they are stored soon."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9.-]*)*")


class BlobsUrlError(ValueError):
    """The URL names no blob store."""


def open_blob_store(url: str) -> NamedBlobStore:
    """The blob store at the URL.

    Raises:
        BlobsUrlError: not ``file:///absolute/dir`` or ``s3://bucket[/prefix]``.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return ObjectBlobStore(from_url(url))
    raise BlobsUrlError(f"{url!r} is no blob store; write file:///absolute/directory or s3://bucket/prefix")


class FileBlobStore:
    """Blobs as files. A blob is whole or absent: written in ``.new``, synced, renamed, the directory synced.

    Small ones that are stored soon go into packs, which every process with the directory reads.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pack, self._packs = PackWriter(root / PACKS), PackLookup(root / PACKS)
        self._swept = False
        self._loose = False
        """Files were written since the last sync."""
        self._behind = WritingBehind(self._write_all, self._sync)

    def path_of(self, digest: str) -> Path:
        """Where the blob's file is, unless it is in a pack. Raises BlobMissing when the digest is none."""
        return self._root / _path_of(digest)

    async def put(self, content: bytes, media_type: str) -> BlobRef:
        ref = ref_to(content, media_type)
        await asyncio.to_thread(self._write, self.path_of(ref.digest), content)
        return ref

    async def put_soon(self, content: bytes, media_type: str) -> BlobRef:
        ref = await _ref_to(content, media_type)
        await self._behind.add(ref.digest, content, media_type)
        return ref

    async def flush(self) -> None:
        await self._behind.flush()

    async def get(self, digest: str) -> bytes:
        return await asyncio.to_thread(self._read, digest)

    async def ping(self) -> None:
        await asyncio.to_thread(self._write, self._root / PING_NAME, b"")

    async def put_named(self, name: str, content: bytes) -> None:
        await asyncio.to_thread(self._write, self._root / _named(name), content)

    async def get_named(self, name: str) -> bytes | None:
        try:
            return await asyncio.to_thread((self._root / _named(name)).read_bytes)
        except FileNotFoundError:
            return None

    async def names(self, folder: str) -> list[str]:
        return await asyncio.to_thread(self._names, folder)

    def _write(self, path: Path, content: bytes) -> None:
        if not self._swept:
            self._swept = True
            sweep(self._root)
        write_durably(path, content, self._root)

    async def _write_all(self, waiting: Sequence[Waiting]) -> None:
        files = [
            (f"{self._root}/{_path_of(digest)}", content) for digest, content, _ in waiting if len(content) > PACKED
        ]
        small = [(_raw(digest), content) for digest, content, _ in waiting if len(content) <= PACKED]
        try:
            await asyncio.to_thread(self._pack.write, small)
        finally:
            if files:
                self._loose = True
                await asyncio.to_thread(write_all, files, self._root)

    async def _sync(self) -> None:
        loose, self._loose = self._loose, False
        if loose:
            await asyncio.to_thread(sync_file_system, self._root)
        else:
            await asyncio.to_thread(self._pack.sync)

    def _read(self, digest: str) -> bytes:
        path, content = self.path_of(digest), None
        with suppress(FileNotFoundError):
            content = path.read_bytes()
            if digest_of(content) == digest:
                return content
        packed = self._packs.get(_raw(digest))
        if packed is not None:
            content = packed
        if content is None:
            raise BlobMissing(f"no blob {digest} in {self._root}")
        return _verified(digest, content, str(self._root))

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(
                f"{folder}/{path.name}" for path in (self._root / _named(folder)).iterdir() if path.name[0] != "."
            )
        except FileNotFoundError:
            return []


class ObjectBlobStore:
    """Blobs as objects of a bucket."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._behind = WritingBehind(self._put_all)

    async def put(self, content: bytes, media_type: str) -> BlobRef:
        ref = ref_to(content, media_type)
        path = _path_of(ref.digest)
        if await self._holds(path, content):
            return ref
        await obstore.put_async(self.store, path, content, attributes={"Content-Type": media_type})
        return ref

    async def put_soon(self, content: bytes, media_type: str) -> BlobRef:
        ref = await _ref_to(content, media_type)
        await self._behind.add(ref.digest, content, media_type)
        return ref

    async def flush(self) -> None:
        await self._behind.flush()

    async def get(self, digest: str) -> bytes:
        try:
            found = await obstore.get_async(self.store, _path_of(digest))
            content = bytes(await found.bytes_async())
        except FileNotFoundError:
            raise BlobMissing(f"no blob {digest} in {self.store}") from None
        return _verified(digest, content, str(self.store))

    async def put_named(self, name: str, content: bytes) -> None:
        await obstore.put_async(self.store, _named(name), content)

    async def get_named(self, name: str) -> bytes | None:
        try:
            found = await obstore.get_async(self.store, _named(name))
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None

    async def names(self, folder: str) -> list[str]:
        found = await obstore.list(self.store, _named(folder) + "/").collect_async()
        return sorted(meta["path"].removeprefix(f"{NAMED}/") for meta in found)

    async def _put_all(self, waiting: Sequence[Waiting]) -> None:
        puts = (
            obstore.put_async(self.store, _path_of(digest), content, attributes={"Content-Type": media_type})
            for digest, content, media_type in waiting
        )
        for failure in await asyncio.gather(*puts, return_exceptions=True):
            if failure is not None and isinstance(failure, BaseException):
                raise failure

    async def _holds(self, path: str, content: bytes) -> bool:
        try:
            found = await obstore.get_async(self.store, path)
            return found.meta["size"] == len(content) and bytes(await found.bytes_async()) == content
        except FileNotFoundError:
            return False

    async def ping(self) -> None:
        try:
            await obstore.put_async(self.store, PING_NAME, b"")
        except Exception as error:  # obstore raises many types; all of them mean that it cannot be written
            raise OSError(f"the blob store {self.store} cannot be written: {error}") from error


class MemoryBlobStore:
    """Blobs in memory, for tests."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.named: dict[str, bytes] = {}

    async def put(self, content: bytes, media_type: str) -> BlobRef:
        ref = ref_to(content, media_type)
        self.contents[ref.digest] = bytes(content)
        return ref

    async def put_soon(self, content: bytes, media_type: str) -> BlobRef:
        return await self.put(content, media_type)

    async def flush(self) -> None:
        """Nothing waits."""

    async def get(self, digest: str) -> bytes:
        if digest not in self.contents:
            raise BlobMissing(f"no blob {digest} in memory")
        return _verified(digest, self.contents[digest], "memory")

    async def ping(self) -> None:
        """Always writable."""

    async def put_named(self, name: str, content: bytes) -> None:
        self.named[_named(name)] = bytes(content)

    async def get_named(self, name: str) -> bytes | None:
        return self.named.get(_named(name))

    async def names(self, folder: str) -> list[str]:
        start = _named(folder) + "/"
        return sorted(name.removeprefix(f"{NAMED}/") for name in self.named if name.startswith(start))


async def _ref_to(content: bytes, media_type: str) -> BlobRef:
    if len(content) <= HASHED_HERE:
        return ref_to(content, media_type)
    return await asyncio.to_thread(ref_to, content, media_type)


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a blob; use lower-case letters, digits, '.' and '-', folders with '/'")
    return f"{NAMED}/{name}"


def _path_of(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise BlobMissing(f"{digest!r} is no digest; expected sha256:<64 hex digits>")
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm}/{digits[:2]}/{digits[2:]}"


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest.partition(":")[2])


def _verified(digest: str, content: bytes, where: str) -> bytes:
    if digest_of(content) != digest:
        raise BlobMissing(f"blob {digest} in {where} is damaged: its content has another digest")
    return content
