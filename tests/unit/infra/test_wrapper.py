"""``./just`` on machines it cannot work on: a clear word, exit code 3, nothing left behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh clone's wrapper, in a path with a space."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("just", "justfile", "tools.txt"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def run_with(checkout: Path, programs: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the wrapper with these programs (shell texts) before the system's own."""
    folder = checkout.parent / "programs"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    return subprocess.run(
        [checkout / "just"], env=env, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def old_pythons() -> dict[str, str]:
    names = ("python3", "python3.11", "python3.12", "python3.13", "python3.14")
    return dict.fromkeys(names, '[ "$1" = --version ] && echo Python 3.9.2 && exit 0; exit 1')


def test_an_old_python_is_named_with_what_mends_it(checkout: Path) -> None:
    done = run_with(checkout, old_pythons())
    assert done.returncode == 3
    assert "3.11 or newer is needed; found: Python 3.9.2" in done.stderr
    assert "RIDGES_PYTHON" in done.stderr


def test_a_failed_download_says_what_to_check_and_leaves_nothing(checkout: Path) -> None:
    """A python3 whose pip always fails."""
    done = run_with(checkout, {"python3": 'case "$*" in *install*) echo "no network" >&2; exit 1;; esac; exit 0'})
    assert done.returncode == 3
    assert "no network" in done.stderr
    assert "check the network" in done.stderr
    assert list((checkout / ".tools").iterdir()) == []


def test_neither_pip_nor_venv(checkout: Path) -> None:
    done = run_with(checkout, {"python3": 'case "$*" in *pip*|*venv*) exit 1;; esac; exit 0', "apt-get": "exit 1"})
    assert done.returncode == 3
    assert "apt-get install python3-venv" in done.stderr
    assert list((checkout / ".tools").iterdir()) == []
