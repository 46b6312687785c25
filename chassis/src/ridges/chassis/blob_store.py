"""Content-addressed blobs in a local directory (``file:///dir``), in S3 (``s3://bucket/prefix``) or in memory.

Layout: ``sha256/ab/<the other 62 digits>``.
"""

import asyncio
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import ObjectStore, from_url

from ridges.chassis.ports import BlobMissing, NamedBlobStore
from ridges.contracts.blobs import DIGEST, BlobRef, digest_of, ref_to

PING_NAME = "ping"
NAMED = "named"
"""Folder of the few contents that are found by name."""
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
    """Blobs as files. A blob is whole or absent: written beside its place, synced, renamed, the directory synced."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path_of(self, digest: str) -> Path:
        """Where the blob's file is. Raises BlobMissing when the digest is none."""
        return self._root / _path_of(digest)

    async def put(self, content: bytes, media_type: str) -> BlobRef:
        ref = ref_to(content, media_type)
        await asyncio.to_thread(_write_durably, self.path_of(ref.digest), content)
        return ref

    async def get(self, digest: str) -> bytes:
        try:
            content = await asyncio.to_thread(self.path_of(digest).read_bytes)
        except FileNotFoundError:
            raise BlobMissing(f"no blob {digest} in {self._root}") from None
        return _verified(digest, content, str(self._root))

    async def ping(self) -> None:
        await asyncio.to_thread(_write_durably, self._root / PING_NAME, b"")

    async def put_named(self, name: str, content: bytes) -> None:
        await asyncio.to_thread(_write_durably, self._root / _named(name), content)

    async def get_named(self, name: str) -> bytes | None:
        try:
            return await asyncio.to_thread((self._root / _named(name)).read_bytes)
        except FileNotFoundError:
            return None

    async def names(self, folder: str) -> list[str]:
        return await asyncio.to_thread(self._names, folder)

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

    async def put(self, content: bytes, media_type: str) -> BlobRef:
        ref = ref_to(content, media_type)
        path = _path_of(ref.digest)
        if await self._holds(path, content):
            return ref
        await obstore.put_async(self.store, path, content, attributes={"Content-Type": media_type})
        return ref

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


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a blob; use lower-case letters, digits, '.' and '-', folders with '/'")
    return f"{NAMED}/{name}"


def _path_of(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise BlobMissing(f"{digest!r} is no digest; expected sha256:<64 hex digits>")
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm}/{digits[:2]}/{digits[2:]}"


def _verified(digest: str, content: bytes, where: str) -> bytes:
    if digest_of(content) != digest:
        raise BlobMissing(f"blob {digest} in {where} is damaged: its content has another digest")
    return content


def _write_durably(path: Path, content: bytes) -> None:
    if _holds(path, content):
        _sync_directory(path.parent)
        return
    made = _make_folders(path.parent)
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    for folder in (path.parent, *made):
        _sync_directory(folder)


def _make_folders(folder: Path) -> list[Path]:
    """The folders whose entries changed, for syncing."""
    changed = []
    for missing in (folder, *folder.parents):
        if missing.exists():
            break
        changed.append(missing.parent)
    folder.mkdir(parents=True, exist_ok=True)
    return changed


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
