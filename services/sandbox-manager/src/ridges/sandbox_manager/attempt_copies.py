"""What attempts at work have so far, on disk, so that it outlives the manager: the end of the log, the last difference,
what their sandboxes have used.

Three small files for each attempt.
"""

import contextlib
import os
import time
from pathlib import Path

import msgspec
import structlog

from ridges.contracts.events import ExitFacts

log = structlog.get_logger(__name__)

MOST_LOG_BYTES = 64 * 1024
"""Of the end of a log that is found again."""
MOST_AGE_S = 7 * 24 * 3600.0
"""A run whose next attempt began at another manager leaves its files here for so long."""


_facts = msgspec.json.Decoder(ExitFacts)


class AttemptCopy:
    """The files of one attempt. A disk that is full costs the copy, never the attempt."""

    def __init__(self, path: Path) -> None:
        self._log_path, self._patch_path = path, path.with_name(f"{path.name}.patch")
        self._exit_path = path.with_name(f"{path.name}.exit")
        self._log_size = 0
        self._broken = False

    def add_to_log(self, _offset: int, chunk: bytes) -> None:
        """Append what the sandbox wrote; at twice what is kept the file is cut down to it."""
        if self._broken:
            return
        try:
            with self._log_path.open("ab") as file:
                file.write(chunk)
            self._log_size += len(chunk)
            if self._log_size > 2 * MOST_LOG_BYTES:
                end = _end_of(self._log_path)
                _replace(self._log_path, end)
                self._log_size = len(end)
        except OSError as error:
            self._broken = True
            log.warning("a live log is not kept on disk", path=str(self._log_path), error=str(error))

    def keep_patch(self, difference: bytes) -> None:
        """Put it in the place of the one before; that stays when there is no room."""
        try:
            _replace(self._patch_path, difference)
        except OSError as error:
            log.warning("a partial patch is not kept on disk", path=str(self._patch_path), error=str(error))

    def keep_exit(self, facts: ExitFacts) -> None:
        """What there would be to say if it ended now, in the place of what was said before."""
        try:
            _replace(self._exit_path, msgspec.json.encode(facts))
        except OSError as error:
            log.warning("what a sandbox uses is not kept on disk", path=str(self._exit_path), error=str(error))

    @property
    def log(self) -> bytes:
        """The end of it, as UTF-8; empty when there is none."""
        try:
            return _end_of(self._log_path).decode("utf-8", "replace").encode()
        except OSError:
            return b""

    @property
    def patch(self) -> bytes:
        """The last difference; empty when there is none."""
        try:
            return self._patch_path.read_bytes()
        except OSError:
            return b""

    @property
    def exit(self) -> ExitFacts | None:
        """What was kept last; None when there is nothing."""
        try:
            return _facts.decode(self._exit_path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            return None

    def remove(self) -> None:
        """What is in it stands in the log of events now, or nobody wants it."""
        for path in (self._log_path, self._patch_path, self._exit_path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class AttemptCopies:
    """The folder of one manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def new(self, run_id: str, attempt: int) -> AttemptCopy:
        """To write to, empty so far."""
        copy = self.of(run_id, attempt)
        copy.remove()
        return copy

    def of(self, run_id: str, attempt: int) -> AttemptCopy:
        """What the attempt had when it was lost; nothing when it was not here."""
        return AttemptCopy(self._folder / f"{run_id}.{attempt}")

    def forget(self, run_id: str) -> None:
        """What there was of its attempts stands in the log of events now."""
        for name in os.listdir(self._folder):  # noqa: PTH208 - three times a run; a glob costs 20 times as much
            if name.startswith(f"{run_id}."):
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()

    def forget_old(self) -> None:
        """Files that nobody came back for."""
        before = time.time() - MOST_AGE_S
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before:
                        path.unlink()


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_LOG_BYTES))
        return file.read()


def _replace(path: Path, content: bytes) -> None:
    """All of it or nothing."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
