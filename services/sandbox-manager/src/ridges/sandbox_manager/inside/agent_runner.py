"""Loads ``/sandbox/agent.py`` and calls its ``agent_main``; writes ``/sandbox/output.json``.

Source: the agent contract: one positional argument, ``sys.modules`` and ``__file__`` set before the agent is executed,
BaseException caught, a ``str`` or ``{"patch": str}`` taken. ``output.json`` is ``{"success": true, "output": patch}``
or ``{"success": false, "error", "traceback", "kind"}`` with kind not_loadable | raised | exited | no_patch. Standard
library only, Python >= 3.8.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AGENT = "agent.py"
INPUT = "input.json"
OUTPUT = "output.json"
ROOM_BYTES = 4 * 1024 * 1024
SHARE_OF_DISK = 8
"""At most this part of the disk is held back for the report."""
MOST_OF_ERROR_CHARS = 1000


def load_agent(path: str) -> Any:
    """The agent's module, executed. Raises whatever the agent raises."""
    spec = importlib.util.spec_from_file_location("agent", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules["agent"] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "agent_main", None)):
        raise ImportError(f"{path} defines no function agent_main")  # noqa: TRY004  # it reads better in a log
    return module


def failure(kind: str, error: str, trace: str = "") -> dict[str, Any]:
    """What ``output.json`` says when there is no patch."""
    return {"success": False, "error": error, "traceback": trace, "kind": kind}


def raised(kind: str, error: BaseException) -> dict[str, Any]:
    """The failure that an exception of the agent is."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    say(trace)
    if isinstance(error, SystemExit):
        return failure("exited", f"the agent called sys.exit({error.code!r})", trace)
    return failure(kind, traceback.format_exception_only(type(error), error)[-1].strip(), trace)


def say(text: str) -> None:
    """Into the log, after what the agent printed, if the agent left that in order."""
    try:
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
    except BaseException:  # noqa: S110  # the outcome is in output.json
        pass


def run_agent(directory: str) -> dict[str, Any]:
    """Load the agent, call it with the problem, judge what it returned."""
    with open(os.path.join(directory, INPUT), encoding="utf-8") as file:
        problem = json.load(file)
    try:
        agent_main = load_agent(os.path.join(directory, AGENT)).agent_main
    except BaseException as error:
        return raised("not_loadable", error)
    try:
        answer = agent_main(problem)
    except BaseException as error:
        return raised("raised", error)
    patch = answer.get("patch") if isinstance(answer, dict) else answer
    if not isinstance(patch, str):
        got = "a dict without the text 'patch'" if isinstance(answer, dict) else type(answer).__name__
        return failure("no_patch", f"agent_main must return a str (a unified diff), it returned {got}")
    return {"success": True, "output": patch}


class Report:
    """``output.json`` before it has its name: an inode and room of its own, however full the agent makes the disk."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, OUTPUT)
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        try:
            self._fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o644)
            self._identity = _identity(self._fd)
            disk = os.statvfs(directory)
            os.posix_fallocate(self._fd, 0, min(ROOM_BYTES, disk.f_blocks * disk.f_frsize // SHARE_OF_DISK))
        except OSError:
            pass  # a file system without such files, or too small for them

    def put(self, text: bytes) -> None:
        """Stand, complete, in the place of whatever the agent left under the name.

        Raises:
            OSError: it cannot be written; nothing stands there.
        """
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        try:
            if self._identity is None or _identity(self._fd) != self._identity:  # an agent may close what it finds open
                raise OSError("no room was held back")
            _write(self._fd, text)
            os.ftruncate(self._fd, len(text))
            # a directory is named so that Python calls linkat(2), which alone follows the link of /proc
            os.link(f"/proc/self/fd/{self._fd}", self._path, src_dir_fd=self._fd)
        except OSError:
            self._let_go()
            self._put_plainly(text)

    def _let_go(self) -> None:
        try:
            if self._identity is not None and _identity(self._fd) == self._identity:
                os.close(self._fd)
        except OSError:
            pass
        self._identity = None

    def _put_plainly(self, text: bytes) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _write(fd, text)
        except OSError:
            os.unlink(self._path)
            raise
        finally:
            os.close(fd)


def _identity(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino


def _write(fd: int, text: bytes) -> None:
    written = 0
    while written < len(text):
        written += os.pwrite(fd, text[written:], written)


def write_output(report: Report, outcome: dict[str, Any]) -> dict[str, Any]:
    """What the report says in the end: the outcome, or, where that does not fit on the disk, why it is missing."""
    try:
        report.put(json.dumps(outcome).encode())
    except OSError as error:
        what = "the agent returned a patch" if outcome["success"] else str(outcome["error"])[:MOST_OF_ERROR_CHARS]
        words = f"{what}; output.json has no room for all of it: {error.strerror or error}"
        say(words + "\n")
        outcome = failure(outcome.get("kind", "exited"), words)
        try:
            report.put(json.dumps(outcome).encode())
        except OSError as again:
            say(f"output.json cannot be written: {again}\n")
    return outcome


def main() -> int:
    """Exit code: 0 = a patch was returned, 1 = not."""
    directory = os.path.dirname(os.path.abspath(__file__))
    os.chdir(directory)
    report, own_pid = Report(directory), os.getpid()
    outcome = run_agent(directory)
    if os.getpid() != own_pid:
        return 1  # a child that the agent forked and let come back: only the parent's word counts
    outcome = write_output(report, outcome)
    say("")
    return 0 if outcome["success"] else 1


if __name__ == "__main__":
    os._exit(main())  # threads of the agent do not keep a finished run open
