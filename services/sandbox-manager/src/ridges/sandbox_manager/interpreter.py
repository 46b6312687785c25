"""The Python interpreter that sandboxes without images get, and the directories it needs."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec

from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.inside import compiled, fork_server_program, supervisor_program

_ASK = (
    "import json,sys;print(json.dumps([sys.executable,sys.prefix,sys.base_prefix,"
    "getattr(sys,'_base_executable',sys.executable),sys.version_info[:2]]))"
)
_OLDEST = (3, 8)


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """An installed Python, perhaps a virtual environment."""

    executable: Path
    """As given: of the virtual environment, where it is one."""
    supervisor_executable: Path
    """Of the installation itself: starts faster, sees no packages."""
    prefixes: tuple[Path, ...]
    """Directories it consists of, outside of /usr."""
    links: tuple[tuple[str, str], ...]
    """Symlinks that lead to it from outside of these directories: target and path."""
    program: bytes
    """The supervisor, compiled for it."""
    fork_server_program: bytes
    """Likewise."""

    @property
    def search_path(self) -> str:
        """PATH for commands, the interpreter's own programs first."""
        own = dict.fromkeys((str(self.executable.parent), str(self.supervisor_executable.parent)))
        return ":".join(dict.fromkeys([*own, "/usr/local/bin", "/usr/bin", "/bin"]))


def find_interpreter(python: Path | None) -> Interpreter:
    """What an interpreter consists of, by asking it.

    Args:
        python: its path; None = the one that runs this.

    Raises:
        SandboxUnavailable: it does not run, or is too old.
    """
    python = python or Path(sys.executable)
    try:
        asked = subprocess.run([python, "-I", "-c", _ASK], capture_output=True, timeout=20, check=True)
        executable, prefix, base_prefix, base_executable, version = json.loads(asked.stdout)
        real = Path(base_executable).resolve()
        program, fork_program = (compiled(each, real) for each in (supervisor_program(), fork_server_program()))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxUnavailable(
            f"the sandboxes' interpreter {python} does not run ({error})",
            "set RIDGES_AGENT_PYTHON to a Python 3 with the packages that agents expect",
        ) from error
    if tuple(version) < _OLDEST:
        raise SandboxUnavailable(
            f"{python} is Python {version[0]}.{version[1]}", "set RIDGES_AGENT_PYTHON to 3.8 or newer"
        )
    prefixes = _prefixes(prefix, base_prefix, real)
    outside = [link for link in _links(Path(executable)) if not any(link.is_relative_to(each) for each in prefixes)]
    return Interpreter(
        executable=Path(executable),
        supervisor_executable=real,
        prefixes=prefixes,
        links=tuple((str(link.readlink()), str(link)) for link in outside if not link.is_relative_to("/usr")),
        program=program,
        fork_server_program=fork_program,
    )


def _prefixes(prefix: str, base_prefix: str, real: Path) -> tuple[Path, ...]:
    """What sandboxes get to see. Raises ``SandboxUnavailable`` when that would be somebody's whole home."""
    paths = [Path(prefix), Path(base_prefix), Path(base_prefix).resolve(), real.parent.parent]
    chosen = tuple(dict.fromkeys(path for path in paths if not path.is_relative_to("/usr")))
    home = _home()
    for path in chosen:
        if home.is_relative_to(path):
            raise SandboxUnavailable(
                f"the interpreter's prefix is {path}: agents would see all of it",
                "set RIDGES_AGENT_PYTHON to an interpreter installed in a directory of its own",
            )
    return chosen


def _home() -> Path:
    try:
        return Path.home().resolve()
    except RuntimeError:  # no HOME, and a uid without a name, as containers may have: only the root is too much
        return Path("/")


def _links(path: Path) -> list[Path]:
    """The symlinks that a path goes through, the last part's only."""
    found = []
    while path.is_symlink():
        found.append(path)
        path = path.parent / path.readlink()
    return found
