"""The grader: runs as the command of an evaluation sandbox, in ``/sandbox``, and leaves ``grading/report.json``.

Standard library only, Python 3.8 or newer. Whatever it still needs after the patch was applied (plan, hidden tests, the
source of the test process) is in its memory by then and no longer on disk; other processes cannot read its memory.

Pytest is loaded once. The test processes are forked before the plan is read, so that they know nothing of it, and wait
for their orders; like the grader they cannot be read or traced by others while they wait.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

MAX_JUNIT_BYTES = 8 * 1024 * 1024
MAX_MESSAGE_CHARS = 4000
MAX_PREPARED = 4
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


class GraderFailed(Exception):
    """The sandbox lacks something; found out before any code of the patch ran."""


def seal() -> None:
    """Makes this process unreadable to others, and heir of its descendants' orphans, so that it can end them all."""
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise GraderFailed(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


def read_tree(folder: Path) -> dict[str, bytes]:
    tree = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            tree[path.relative_to(folder).as_posix()] = path.read_bytes()
    return tree


def write_tree(tree: dict[str, bytes], folder: Path) -> None:
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def remove(path: Path) -> None:
    """Removes whatever is there, never following a link."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


class Repository:
    """The tree under test, with what is needed to put parts of it back."""

    def __init__(self, folder: Path, python_path: list[str]) -> None:
        self.folder = folder
        self.roots = [folder / part if part else folder for part in python_path]
        self.pristine_modules = {root: modules_in(root) for root in self.roots}
        self.pristine_pyproject = self.read("pyproject.toml")

    def read(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() and not path.is_symlink() else None

    def put_back(self, name: str, content: bytes | None) -> None:
        path = self.folder / name
        remove(path)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def apply(self, patch: Path) -> str | None:
        """What git said; None when the patch is applied."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "HOME": str(patch.parent / "grading"),
                       "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
                       "GIT_CEILING_DIRECTORIES": str(patch.parent)}  # fmt: skip
        try:
            done = subprocess.run(
                ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", str(patch)],
                cwd=str(self.folder), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False, timeout=60,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "git apply took longer than 60 s"
        if done.returncode != 0:
            return done.stdout.decode("utf-8", "replace").strip()[:MAX_MESSAGE_CHARS] or "git apply failed silently"
        for path in self.folder.rglob("*"):
            if stat.S_IFMT(path.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                return f"{path.relative_to(self.folder)} is neither a file nor a folder after the patch"
        return None

    def put_back_infrastructure(self) -> list[str]:
        """Puts back what only shows here: new modules that hide an installed one, pytest's table in pyproject.toml."""
        back = []
        for root, pristine in self.pristine_modules.items():
            for name, paths in modules_in(root).items():
                if name not in pristine and is_installed(name):
                    for path in paths:
                        back.append(path.relative_to(self.folder).as_posix())
                        remove(path)
        now = self.read("pyproject.toml")
        if now != self.pristine_pyproject and pytest_table(now) != pytest_table(self.pristine_pyproject):
            self.put_back("pyproject.toml", self.pristine_pyproject)
            back.append("pyproject.toml")
        return back


def modules_in(root: Path) -> dict[str, list[Path]]:
    """Top-level modules and packages below an import root: name -> paths."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        is_package = path.is_dir() and any(path.glob("__init__.*"))
        if is_package or path.suffix in (".py", ".pyc", ".so"):
            found.setdefault(path.name.partition(".")[0], []).append(path)
    return found


def is_installed(name: str) -> bool:
    if name in sys.builtin_module_names or name in getattr(sys, "stdlib_module_names", ()):
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def pytest_table(content: bytes | None) -> object:
    """Pytest's settings in a pyproject.toml; unreadable ones are equal to nothing."""
    if content is None:
        return None
    try:
        import tomllib  # noqa: PLC0415 - from Python 3.11 on

        return tomllib.loads(content.decode("utf-8")).get("tool", {}).get("pytest")
    except (ImportError, ValueError, RecursionError):
        return object()


def end_descendants(spare: frozenset[int] = frozenset()) -> None:
    """Kills every other descendant. Orphans become children of this process, so a few passes reach them all."""
    for _ in range(1000):
        children = [child for child in children_of(os.getpid()) if child not in spare]
        if not children:
            return
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(OSError):
                os.waitpid(child, 0)


def children_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(path.name))
    return found


class TestProcesses:
    """Pytest processes, each for one round: the first few are forked ahead and wait, with pytest loaded."""

    __test__ = False

    def __init__(self, runner: str) -> None:
        self._runner = runner
        self._waiting: list[tuple[int, int]] = []

    def prepare(self, count: int) -> None:
        """Call once, before this process knows anything that code of the patch must not know."""
        if importlib.util.find_spec("pytest") is None:
            raise GraderFailed(f"pytest is not installed for {sys.executable} in the sandbox image")
        module = types.ModuleType("run_tests")
        exec(compile(self._runner, "<run_tests>", "exec"), module.__dict__)  # noqa: S102 - our own source
        gc.disable()  # nothing of all this is ever garbage
        module.import_pytest()
        gc.freeze()
        gc.enable()
        for _ in range(min(count, MAX_PREPARED)):
            orders, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                module.run_forked(orders)
            os.close(orders)
            self._waiting.append((pid, write_end))

    def run(
        self, orders: dict[str, Any], python_path: list[str], folder: Path, timeout_s: float
    ) -> tuple[int | None, bool]:
        """(Exit code, whether it was ended because its time was over). Afterwards only waiting ones are left."""
        kept = ("PATH", "HOME", "TMPDIR", "LANG", "TZ")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment.update(PYTHONPATH=os.pathsep.join(python_path), PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1",
                           PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")  # fmt: skip
        sys.stdout.flush()
        told = json.dumps({**orders, "environment": environment, "folder": str(folder)}).encode()
        give_up_at = time.monotonic() + max(timeout_s, 1)
        pid, orders_fd = self._waiting.pop(0) if self._waiting else self._start()
        try:
            send(orders_fd, told, give_up_at)
            return wait_for(pid, give_up_at)
        finally:
            end_descendants(spare=frozenset(waiting for waiting, _ in self._waiting))

    def _start(self) -> tuple[int, int]:
        orders, write_end = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", self._runner], stdin=orders, start_new_session=True
        )  # fmt: skip
        os.close(orders)
        child.returncode = 0  # waited for by its id
        return child.pid, write_end


def send(fd: int, content: bytes, give_up_at: float) -> None:
    """To a process that may be dead or stopped. Closes the descriptor."""
    os.set_blocking(fd, False)
    try:
        while content and select.select([], [fd], [], max(give_up_at - time.monotonic(), 0))[1]:
            content = content[os.write(fd, content) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def until_it_ends(pid: int, give_up_at: float) -> None:
    """Returns at a child's end or when its time is over; where the kernel cannot tell, at once."""
    try:
        end = os.pidfd_open(pid)
    except (AttributeError, OSError):  # Python 3.8, Linux 5.2, or a system call filter
        return
    try:
        select.select([end], [], [], max(give_up_at - time.monotonic(), 0))
    finally:
        os.close(end)


def wait_for(pid: int, give_up_at: float) -> tuple[int | None, bool]:
    """Exit code of a child (negative: signal); (None, True) when it had to be killed."""
    pause = 0.001
    while True:
        until_it_ends(pid, give_up_at)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), False
        left = give_up_at - time.monotonic()
        if left <= 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None, True
        pause = min(pause * 1.5, 0.02, left)
        time.sleep(pause)


def run_round(
    part: dict[str, Any],
    root: Path,
    repository: Repository,
    tests: dict[str, bytes],
    processes: TestProcesses,
    timeout_s: float,
) -> dict[str, Any]:
    """One pytest process over freshly written hidden tests; the round's report."""
    remove(root)
    write_tree(tests, root / part["folder"])
    write_tree({name: source.encode() for name, source in part["replaced"].items()}, root / part["folder"])
    write_tree({part["canary_file"]: part["canary_source"].encode()}, root)
    (root / "pytest.ini").write_text("[pytest]\n")  # what the orders name is collected whatever it is called
    paths = [str(root / part["folder"])] + [str(path) for path in repository.roots]
    junit = root / "junit.xml"
    orders = {
        "path": paths, "root": str(root), "config": str(root / "pytest.ini"), "junit": str(junit),
        "files": [str(root / part["folder"] / name) for name in part["files"]] + [str(root / part["canary_file"])],
        "ids": [f"{part['folder']}/{test}" for test in part["select"]],
        "whole_files": [part["canary_file"]]
        + [f"{part['folder']}/{name}" for name in part["select"] if "::" not in name],
    }  # fmt: skip
    started = time.monotonic()
    code, timed_out = processes.run(orders, paths[1:], repository.folder, timeout_s)
    report: dict[str, Any] = {
        "exit_code": code,
        "timed_out": timed_out,
        "duration_s": round(time.monotonic() - started, 3),
    }
    report["junit"], report["junit_problem"] = (None, None) if timed_out else read_junit(junit)
    remove(root)
    return report


def read_junit(path: Path) -> tuple[str | None, str | None]:
    try:
        descriptor = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return None, error.strerror
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None, "not a regular file"
        content = stream.read(MAX_JUNIT_BYTES + 1)
    if len(content) > MAX_JUNIT_BYTES:
        return None, f"larger than {MAX_JUNIT_BYTES} bytes"
    return content.decode("utf-8", "replace"), None


def has_failures(part: dict[str, Any], outcome: dict[str, Any]) -> bool:
    """More failed than the canaries that must: the verdict is ``unresolved`` whatever another round says."""
    junit = outcome["junit"] or ""
    return junit.count("<failure ") + junit.count("<error ") > len(part["must_fail"])


def grade(sandbox: Path, plan: dict[str, Any], processes: TestProcesses, report: dict[str, Any]) -> None:
    started = time.monotonic()
    grading = sandbox / "grading"
    tests = read_tree(grading / "tests")
    for name in ("tests", "run_tests.py", "grade.py"):
        remove(grading / name)
    if shutil.which("git") is None:
        raise GraderFailed("git is not installed in the sandbox image")
    repository = Repository(sandbox / "repo", plan["python_path"])
    kept = {name: repository.read(name) for name in plan["flagged"]}
    if plan["patch"]:
        message = repository.apply(sandbox / "patch.diff")
        if message is not None:
            report["apply_message"] = message
            return
        try:
            for name, content in kept.items():
                repository.put_back(name, content)
            report["put_back"] = repository.put_back_infrastructure()
        except OSError as error:  # a file where a folder was, for instance
            report["apply_message"] = f"test infrastructure cannot be put back after the patch: {error}"
            return
    report["applied"] = True  # from here on, code of the patch runs: whatever breaks now is not our fault
    used: dict[str, float] = {}
    failed = False
    for number, part in enumerate(plan["rounds"]):
        if part["kind"] == "probes" and failed:
            report["rounds"].append({"exit_code": None})
            continue
        left = plan["timeout_s"] - used.get(part["kind"], 0.0)
        outcome = run_round(part, grading / f"round-{number}", repository, tests, processes, left)
        failed = failed or (part["kind"] == "tests" and has_failures(part, outcome))
        used[part["kind"]] = used.get(part["kind"], 0.0) + outcome["duration_s"]
        report["rounds"].append(outcome)
    report["duration_s"] = round(time.monotonic() - started, 3)


def main() -> None:
    sandbox = Path(__file__).resolve().parent.parent
    trouble = None
    processes = TestProcesses((sandbox / "grading" / "run_tests.py").read_text())
    try:
        seal()
        processes.prepare(int((sandbox / "grading" / "rounds").read_text()))
    except (GraderFailed, OSError) as error:
        trouble = error
    plan_path = sandbox / "grading" / "plan.json"
    plan = json.loads(plan_path.read_bytes())
    plan_path.unlink()
    report: dict[str, Any] = {"nonce": plan["nonce"], "applied": False, "put_back": [], "rounds": []}
    try:
        if trouble is not None:
            raise trouble
        grade(sandbox, plan, processes, report)
    except (GraderFailed, OSError, subprocess.SubprocessError) as error:
        sys.stdout.write(f"grader: {type(error).__name__}: {error}\n")
        if not report["applied"]:
            report["error"] = f"{type(error).__name__}: {error}"
    end_descendants()
    target = sandbox / "grading" / "report.json"
    remove(target)
    with os.fdopen(os.open(str(target), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as stream:
        json.dump(report, stream)


if __name__ == "__main__":
    main()
