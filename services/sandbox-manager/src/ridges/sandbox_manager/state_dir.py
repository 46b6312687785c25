"""The manager's own directory: one manager at a time, and an id that outlives it."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from ridges.sandbox_manager.errors import SettingRefused, StateDirTaken


@contextlib.contextmanager
def own_state_dir(path: Path) -> Iterator[str]:
    """The id of this installation, while the directory is locked for this process. The kernel unlocks it at any death.

    Raises:
        StateDirTaken: another manager runs on it.
        SettingRefused: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingRefused("RIDGES_STATE_DIR", f"{path} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateDirTaken(str(path)) from None
        yield _installation_id(path / "installation-id")
    finally:
        os.close(lock)


def _installation_id(file: Path) -> str:
    """Marks what this installation starts: a restarted manager finds it again, and no other touches it."""
    with contextlib.suppress(FileNotFoundError):
        if found := file.read_text().strip():
            return found
    fresh = str(uuid.uuid4())
    new = file.with_suffix(".new")
    new.write_text(fresh + "\n")
    new.replace(file)
    return fresh
