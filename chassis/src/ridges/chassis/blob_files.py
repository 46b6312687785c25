"""Files that are whole or absent: written in a folder for fresh ones, renamed, synced one by one or all together.

What a killed process left there is swept away a day later: files do not say who writes them, and processes in other
containers do, but none takes a day for one.
"""

import ctypes
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

FRESH = ".new"
"""Folder of the files that are being written, below the root of a store: one, so that it can be looked through."""
DEAD_AFTER_S = 24 * 3600.0
"""Nobody writes on at a file that was not touched for so long."""

_fresh = count()
_process = uuid4().hex
_libc = ctypes.CDLL(None, use_errno=True)


def sweep(root: Path) -> None:
    """Remove fresh files below the root whose writers are dead. Never fails."""
    with suppress(OSError):
        for left in (root / FRESH).iterdir():
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > DEAD_AFTER_S:
                    left.unlink()


def write_durably(path: Path, content: bytes, root: Path) -> None:
    """The file has this content, also after a power cut. A damaged one is replaced. ``root``: of the store it is in."""
    if _holds(path, content):
        sync_directory(path.parent)
        return
    made = _make_folders(path.parent)
    fresh = _written(content, f"{root}/{FRESH}", sync=True)
    try:
        os.rename(fresh, path)  # noqa: PTH104 - as below
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
    for folder in (path.parent, *made):
        sync_directory(folder)


def write_all(files: Iterable[tuple[str, bytes]], root: Path) -> None:
    """Each path holds its content, once the file system is synced. A file of the same size is taken for the same.

    Raises:
        OSError: of the first that could not be written, after the others were tried.
    """
    failure: OSError | None = None
    for path, content in files:
        try:
            _write(path, content, f"{root}/{FRESH}")
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def sync_file_system(folder: Path) -> None:
    """Everything written so far to the folder's file system survives a power cut."""
    if not hasattr(_libc, "syncfs"):
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def _write(path: str, content: bytes, fresh_folder: str) -> None:
    try:
        if os.stat(path).st_size == len(content):  # noqa: PTH116 - thousands a second; Path objects cost more than the call
            return
    except FileNotFoundError:
        pass
    folder = path.rpartition("/")[0]
    fresh = _written(content, fresh_folder, sync=False)
    try:
        try:
            os.rename(fresh, path)  # noqa: PTH104 - as above
        except FileNotFoundError:
            Path(folder).mkdir(parents=True, exist_ok=True)
            os.rename(fresh, path)  # noqa: PTH104 - as above
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _written(content: bytes, folder: str, *, sync: bool) -> str:
    """The path of a fresh file with the content. Nothing is left when this raises."""
    fresh = f"{folder}/{_process}-{next(_fresh)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        handle = os.open(fresh, flags, 0o644)
    except FileNotFoundError:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle = os.open(fresh, flags, 0o644)
    try:
        try:
            os.fchmod(handle, 0o644)
            left = memoryview(content)
            while left:
                left = left[os.write(handle, left) :]
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
    return fresh


def _make_folders(folder: Path) -> list[Path]:
    """The folders whose entries changed, for syncing."""
    if folder.is_dir():
        return []
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


def sync_directory(directory: Path) -> None:
    """The names in the directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
