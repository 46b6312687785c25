"""What ``.ridges/`` holds: paths, the lock, and ``state.json`` that tells others where the system listens."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from ridges.cli.errors import CliError


class SystemState(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of ``state.json``."""

    supervisor_pid: int
    phase: Literal["starting", "ready", "stopping", "failed"]
    detail: str
    nats_url: str
    ledger_url: str
    gateway_url: str
    sandbox_manager_url: str
    evaluator_url: str
    pids: dict[str, int]
    started_at: datetime


class StateDir:
    """The folder ``.ridges/`` of one project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = Path(os.environ.get("RIDGES_HOME") or root / ".ridges")

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def nats(self) -> Path:
        return self.path / "nats"

    @property
    def users(self) -> Path:
        """Every command that needs the system holds a shared lock on this file."""
        return self.path / "users"

    @property
    def stays_up(self) -> bool:
        """Whether `ridges up` asked the system to stay when its users are gone."""
        return (self.path / "stay_up").exists()

    def set_stays_up(self, stays: bool) -> None:
        marker = self.path / "stay_up"
        if stays:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)

    @property
    def abandoned(self) -> bool:
        """Whether no command uses the system and nobody asked it to stay: its users were killed."""
        if self.stays_up:
            return False
        with self.users.open("ab") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    @contextlib.contextmanager
    def staying_up(self) -> Iterator[None]:
        """The system that is started inside stays when its users are gone; one that does not start leaves no trace."""
        stayed = self.stays_up
        self.set_stays_up(True)
        try:
            yield
        except BaseException:
            self.set_stays_up(stayed)
            raise

    def create(self) -> None:
        """Makes the folder, readable by its owner only.

        Raises:
            CliError: the place is not writable.

        """
        try:
            for folder in (self.path, self.logs, self.blobs, self.nats, self.path / "ledger", self.path / "manager"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CliError(
                f"cannot write {self.path}: {error.strerror}; choose another place with RIDGES_HOME"
            ) from error

    def run_token_key(self) -> str:
        """The key shared by gateway and sandbox-manager, made once. 64 hex digits."""
        return self.secret("run_token_key")

    def secret(self, name: str) -> str:
        """A random secret of this installation, made at first use. 64 hex digits."""
        file = self.path / name
        with contextlib.suppress(FileNotFoundError):
            text = file.read_text("ascii").strip()
            if len(text) == 64:
                return text
        text = secrets.token_hex(32)
        self._write(file, text.encode())
        return text

    def read(self) -> SystemState | None:
        """The state of a running system; null when none runs (a state left by a dead one does not count)."""
        if not self.locked():
            return None
        try:
            return msgspec.json.decode((self.path / "state.json").read_bytes(), type=SystemState)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def write(self, state: SystemState) -> None:
        self._write(self.path / "state.json", msgspec.json.format(msgspec.json.encode(state), indent=1))

    def remove_state(self) -> None:
        (self.path / "state.json").unlink(missing_ok=True)

    def locked(self) -> bool:
        """Whether a supervisor holds this folder."""
        try:
            with (self.path / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """Holds the folder for one supervisor; a process that inherits the descriptor holds it, too.

        Raises:
            CliError: another one holds it.

        """
        with (self.path / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CliError(f"a system is running in {self.path} already; `ridges down` stops it") from error
            yield lock.fileno()

    @staticmethod
    def _write(file: Path, content: bytes) -> None:
        fresh = file.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
        fresh.replace(file)
