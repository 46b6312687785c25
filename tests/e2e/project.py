"""A user's folder for end-to-end tests: configuration and examples, and the command line run in it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
FORK_SERVER = "ridges fork server"
SERVING = (" -m ridges.", f": {FORK_SERVER}")
"""In the lines of processes that a running system consists of."""


STARTED: list[subprocess.Popen[str]] = []
"""Commands that go on in the background."""


def end_commands() -> None:
    """Ends those that a failed test left at work, and closes their pipes: the next test is not to find them."""
    while STARTED:
        command = STARTED.pop()
        if command.poll() is None:
            command.terminate()
            try:
                command.wait(60)
            except subprocess.TimeoutExpired:
                command.kill()
                command.wait()
        for pipe in (command.stdout, command.stderr):
            if pipe is not None:
                pipe.close()


class Project:
    """A folder like one a user has, with a space in its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "my project"
        self.folder.mkdir()
        shutil.copy(REPOSITORY / "ridges.toml", self.folder)
        shutil.copytree(REPOSITORY / "examples", self.folder / "examples")
        agent_environment = REPOSITORY / ".venv-agent"
        if agent_environment.exists():
            (self.folder / ".venv-agent").symlink_to(agent_environment)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RIDGES_")}
        self.prefix: list[str] = []
        """Comes before each command."""

    def ridges(self, *args: str, timeout_s: float = 180, env: Mapping[str, str] | None = None) -> "Ended":
        """Runs the command line to its end."""
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "ridges.cli", *args],
            cwd=self.folder,
            env=self.env | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Starts the command line and goes on."""
        command = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "ridges.cli", *args],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        STARTED.append(command)
        return command

    def agent(self, name: str, source: str | bytes) -> str:
        """An agent file of this project."""
        path = self.folder / name
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return str(path)

    def state(self) -> dict[str, object]:
        """Contents of ``state.json``."""
        return dict(json.loads((self.folder / ".ridges" / "state.json").read_text()))

    def pid(self, service: str) -> int:
        pids = self.state()["pids"]
        assert isinstance(pids, dict)
        return int(pids[service])

    def leftovers(self) -> list[str]:
        """Processes that still work in or for this folder."""
        processes = list(psutil.process_iter(["pid", "cmdline"]))
        return [found for process in processes if (found := self._belongs(process) or self._forked(process))]

    def wait_for_nothing_left(self, timeout_s: float = 10) -> list[str]:
        """What is left after some patience; empty is good."""
        give_up = time.monotonic() + timeout_s
        while (left := self.leftovers()) and time.monotonic() < give_up:
            time.sleep(0.2)
        return left

    def traces(self) -> list[str]:
        """What sandboxes left on this machine, dead or alive, beside the processes of a running system."""
        at_work = set(self.state()["pids"].values()) if (self.folder / ".ridges" / "state.json").exists() else set()
        found = [
            line
            for line in self.leftovers()
            if not any(part in line for part in SERVING) and int(line.split(":")[0]) not in at_work
        ]
        found += [str(path) for path in (self.folder / ".ridges").rglob(".new/*")]
        if not (owner := self._owner()):
            return found
        for place in self._socket_places(owner):
            found += [str(path) for path in place.iterdir() if path.is_dir()] if place.exists() else []
            found += [str(place)] if place.exists() and not at_work and self.folder not in place.parents else []
        for kind in (("ps", "-aq"), ("network", "ls", "-q")) if shutil.which("docker") else ():
            found += _lines("docker", *kind, "--filter", f"label=ridges.owner={owner}")
        return found

    def wait_for_no_traces(self, timeout_s: float = 90) -> list[str]:
        """The same after some patience, for a sweep comes once a minute; empty is good."""
        give_up = time.monotonic() + timeout_s
        while (left := self.traces()) and time.monotonic() < give_up:
            time.sleep(0.5)
        return left

    def _owner(self) -> str:
        file = self.folder / ".ridges" / "manager" / "installation-id"
        return file.read_text().strip() if file.exists() else ""

    def _socket_places(self, owner: str) -> list[Path]:
        others = {os.environ.get("XDG_RUNTIME_DIR"), "/run", tempfile.gettempdir(), "/tmp"} - {None}
        short = f"ridges-{owner.replace('-', '')[-12:]}"
        return [self.folder / ".ridges" / "manager" / "p", *(Path(str(place)) / short for place in others)]

    def _belongs(self, process: psutil.Process) -> str | None:
        if process.pid == os.getpid():
            return None
        try:
            words = " ".join(process.cmdline())
            if str(self.folder) in words or process.environ().get("RIDGES_ROOT") == str(self.folder):
                return f"{process.pid}: {words[:200]}"
            if str(self.folder) in " ".join(process.environ().values()):
                return f"{process.pid}: {words[:200]}"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return None

    def _forked(self, process: psutil.Process) -> str | None:
        """A fork server or sandbox of this folder's manager, or of one that is gone: they do not name the folder."""
        try:
            words = " ".join(process.cmdline())
            if not words.startswith((FORK_SERVER, "ridges sandbox")):
                return None
            chain = [process, *process.parents()]
            servers = [each for each in chain if " ".join(each.cmdline()).startswith(FORK_SERVER)]
            manager = servers[0].parent() if servers else None
            if manager is None or manager.pid == 1 or self._belongs(manager):
                return f"{process.pid}: {words[:200]}"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return None


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return [f"{' '.join(command[1:3])}: {line}" for line in done.stdout.split()]


class Ended:
    """A command that ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def document(self) -> dict[str, object]:
        """The one JSON document on stdout."""
        return dict(json.loads(self.stdout))

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-3000:]}"
