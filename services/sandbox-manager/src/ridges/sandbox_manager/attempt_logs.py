"""The ends of live logs on disk, so that they outlive the manager. One small file for each attempt at work."""

import contextlib
import glob
import os
import time
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MOST_BYTES = 64 * 1024
"""Of the end of a log that is found again."""
MOST_AGE_S = 7 * 24 * 3600.0
"""A run whose next attempt began at another manager leaves its file here for so long."""


class AttemptLog:
    """The file of one attempt. A disk that is full costs the copy, never the attempt."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._broken = False

    def add(self, _offset: int, chunk: bytes) -> None:
        """Append what the sandbox wrote; at twice what is kept the file is cut down to it."""
        if self._broken:
            return
        try:
            with self._path.open("ab") as file:
                file.write(chunk)
            self._size += len(chunk)
            if self._size > 2 * MOST_BYTES:
                self._cut()
        except OSError as error:
            self._broken = True
            log.warning("a live log is not kept on disk", path=str(self._path), error=str(error))

    def remove(self) -> None:
        """The log is in the blob store now."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _cut(self) -> None:
        end = _end_of(self._path)
        new = self._path.with_suffix(".new")
        new.write_bytes(end)
        new.replace(self._path)
        self._size = len(end)


class AttemptLogs:
    """The folder of one manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def of(self, run_id: str, attempt: int) -> AttemptLog:
        """A log to write, empty so far."""
        found = AttemptLog(self._folder / f"{run_id}.{attempt}")
        found.remove()
        return found

    def found(self, run_id: str, attempt: int) -> bytes:
        """The end of what the attempt had written when it was lost, as UTF-8; empty when it was not here."""
        try:
            content = _end_of(self._folder / f"{run_id}.{attempt}")
        except OSError:
            return b""
        return content.decode("utf-8", "replace").encode()

    def forget(self, run_id: str) -> None:
        """What there was of its attempts stands in the log now."""
        for path in self._folder.glob(f"{glob.escape(run_id)}.*"):
            AttemptLog(path).remove()

    def forget_old(self) -> None:
        """Files that nobody came back for."""
        before = time.time() - MOST_AGE_S
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_BYTES))
        return file.read()
