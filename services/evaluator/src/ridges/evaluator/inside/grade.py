"""The grader: ``start.py`` runs it in an evaluation sandbox, in ``/sandbox``, and it leaves ``grading/report.json``.

Standard library only, Python 3.8 or newer. Whatever it still needs after the patch was applied (plan, hidden tests, the
source of the test process) is in its memory by then and no longer on disk; other processes cannot read its memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

MAX_JUNIT_BYTES = 8 * 1024 * 1024
ROOM_BYTES = 1024 * 1024
"""What the tests' report has for itself on a disk that they fill."""
ROOT = "round-now"
"""Folder of the hidden tests, while they run."""
PYTEST_INI = "[pytest]\n"
"""What the orders name is collected whatever it is called."""


def load(name: str) -> types.ModuleType:
    """A program that lies beside this one. Nothing can import it, or find it where modules are looked for."""
    module = types.ModuleType(name)
    code = globals().get("CODES", {}).get(name) or compile(source(name), f"<{name}>", "exec")
    exec(code, module.__dict__)  # noqa: S102 - our own source
    return module


def source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text()


if TYPE_CHECKING:
    from ridges.evaluator.inside import pytest_processes, repository
else:
    pytest_processes, repository = load("pytest_processes"), load("repository")


def run_round(
    part: dict[str, Any],
    root: Path,
    tree: repository.Repository,
    tests: dict[str, bytes],
    processes: pytest_processes.TestProcesses,
    timeout_s: float,
) -> dict[str, Any]:
    """One pytest process over freshly written hidden tests; the round's report."""
    repository.remove(root)
    repository.write_tree(tests, root / part["folder"])
    repository.write_tree({name: source.encode() for name, source in part["replaced"].items()}, root / part["folder"])
    repository.write_tree({part["canary_file"]: part["canary_source"].encode()}, root)
    (root / "pytest.ini").write_text(PYTEST_INI)
    paths = [str(root / part["folder"])] + [str(path) for path in tree.roots]
    junit = root / "junit.xml"
    orders = {
        "path": paths, "root": str(root), "unseen": part["kind"] == "probes",
        "files": [str(root / part["folder"] / name) for name in part["files"]] + [str(root / part["canary_file"])],
        "ids": [f"{part['folder']}/{test}" for test in part["select"]],
        "whole_files": [part["canary_file"]]
        + [f"{part['folder']}/{name}" for name in part["select"] if "::" not in name],
    }  # fmt: skip
    hold_room(junit)
    started = time.monotonic()
    code, timed_out = processes.run(orders, paths[1:], tree.folder, timeout_s)
    report: dict[str, Any] = {
        "exit_code": code,
        "timed_out": timed_out,
        "duration_s": round(time.monotonic() - started, 3),
    }
    report["junit"], report["junit_problem"] = (None, None) if timed_out else read_junit(junit)
    report["disk_full"] = is_full(root.parent)
    repository.remove(root)
    return report


def hold_room(path: Path) -> None:
    """Pytest empties the file before it writes, which gives it the room. Nothing of the patch runs while this does."""
    with contextlib.suppress(OSError), path.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, min(ROOM_BYTES, free_bytes(path.parent) // 2))


def is_full(folder: Path) -> bool:
    return free_bytes(folder) < ROOM_BYTES // 16


def free_bytes(folder: Path) -> int:
    """0 where the folder is gone."""
    try:
        disk = os.statvfs(str(folder))
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


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
    if not content.strip(b"\0"):
        return None, "nothing was written"
    return content.decode("utf-8", "replace"), None


def has_failures(part: dict[str, Any], outcome: dict[str, Any]) -> bool:
    """More failed than the canaries that must: the verdict is ``unresolved`` whatever another round says."""
    junit = outcome["junit"] or ""
    return junit.count("<failure ") + junit.count("<error ") > len(part["must_fail"])


def grade(
    sandbox: Path, plan: dict[str, Any], processes: pytest_processes.TestProcesses, report: dict[str, Any]
) -> None:
    started = time.monotonic()
    grading = sandbox / "grading"
    tests = repository.read_tree(grading / "tests")
    for path in list(grading.iterdir()):
        repository.remove(path)
    if shutil.which("git") is None:
        raise pytest_processes.GraderFailed("git is not installed in the sandbox image")
    tree = repository.Repository(sandbox / "repo", plan["python_path"])
    kept = {name: tree.read(name) for name in plan["flagged"]}
    if plan["patch"]:
        message = tree.apply(sandbox / "patch.diff")
        if message is not None:
            report["apply_message"] = message
            return
        try:
            for name, content in kept.items():
                tree.put_back(name, content)
            report["put_back"] = tree.put_back_infrastructure()
        except OSError as error:  # a file where a folder was, for instance
            report["apply_message"] = f"test infrastructure cannot be put back after the patch: {error}"
            return
    report["applied"] = True  # from here on, code of the patch runs: whatever breaks now is not our fault
    used: dict[str, float] = {}
    failed = False
    for part in plan["rounds"]:
        if part["kind"] == "probes" and failed:
            report["rounds"].append({"exit_code": None})
            continue
        left = plan["timeout_s"] - used.get(part["kind"], 0.0)
        try:
            outcome = run_round(part, grading / ROOT, tree, tests, processes, left)
        except OSError:  # no room for the tests themselves, for instance
            report["rounds"].append({"exit_code": None, "disk_full": is_full(grading)})
            raise
        failed = failed or (part["kind"] == "tests" and has_failures(part, outcome))
        used[part["kind"]] = used.get(part["kind"], 0.0) + outcome["duration_s"]
        report["rounds"].append(outcome)
    report["duration_s"] = round(time.monotonic() - started, 3)


def main() -> None:
    sandbox = Path(__file__).resolve().parent.parent
    grading = sandbox / "grading"
    processes = pytest_processes.TestProcesses(source("run_tests"), load)
    try:
        pytest_processes.seal()
        root = grading / ROOT
        root.mkdir()
        (root / "pytest.ini").write_text(PYTEST_INI)
        ready = None if any("conftest.py" in files for _, _, files in os.walk(str(grading / "tests"))) else root
        rounds = int((grading / "rounds").read_text())
        processes.prepare(rounds, ready, sandbox / "repo", lambda: grade_and_report(sandbox, processes, None))
    except (pytest_processes.GraderFailed, OSError) as error:
        grade_and_report(sandbox, processes, error)


def grade_and_report(sandbox: Path, processes: pytest_processes.TestProcesses, trouble: Exception | None) -> None:
    """From the plan to the report; the first that knows what code of the patch must not know."""
    plan_path = sandbox / "grading" / "plan.json"
    plan = json.loads(plan_path.read_bytes())
    plan_path.unlink()
    report: dict[str, Any] = {"nonce": plan["nonce"], "applied": False, "put_back": [], "rounds": []}
    try:
        if trouble is not None:
            raise trouble
        grade(sandbox, plan, processes, report)
    except (pytest_processes.GraderFailed, OSError, subprocess.SubprocessError) as error:
        sys.stdout.write(f"grader: {type(error).__name__}: {error}\n")
        if not report["applied"]:
            report["error"] = f"{type(error).__name__}: {error}"
    pytest_processes.end_descendants()
    write_report(sandbox, json.dumps(report).encode())


def write_report(sandbox: Path, report: bytes) -> None:
    """Where the patched code filled the disk or broke the folder, all that is there makes room: nobody needs it."""
    target = sandbox / "grading" / "report.json"
    try:
        write_anew(target, report)
    except OSError:
        for path in list(sandbox.iterdir()):
            repository.remove(path)
        target.parent.mkdir()
        write_anew(target, report)


def write_anew(target: Path, content: bytes) -> None:
    """Raises OSError when its folder is not one (a link, for instance) or has no room."""
    if not stat.S_ISDIR(os.lstat(target.parent).st_mode):
        raise NotADirectoryError(str(target.parent))
    repository.remove(target)
    with os.fdopen(os.open(str(target), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as stream:
        stream.write(content)


if __name__ == "__main__":
    main()
