"""What ``--help`` says is what was agreed on. Write the files again with ``RIDGES_WRITE_GOLDEN=1``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELP = Path(__file__).with_name("help")
COMMANDS = (
    "", "run", "runs", "show", "logs", "watch", "cancel", "costs", "up", "down", "doctor", "demo",
    "problem", "problem list", "problem check", "image", "image build", "image packages", "export",
    "ledger", "ledger rebuild", "ledger verify", "ledger archive", "ledger restore", "ledger prices", "ledger reprice",
    "ledger settle", "ledger migrate",
)  # fmt: skip
WIDTH = 100


def help_of(command):
    """The help text as a terminal of a fixed width without colours shows it."""
    plain = {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "ridges.cli", *command.split(), "--help"],
        env={"PATH": os.environ["PATH"]} | plain,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return "".join(line.rstrip() + "\n" for line in done.stdout.strip("\n").splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_is_the_golden_one(command):
    file = HELP / f"{command.replace(' ', '-') or 'ridges'}.txt"
    said = help_of(command)
    if os.environ.get("RIDGES_WRITE_GOLDEN") == "1":
        file.write_text(said, "utf-8")
    golden = file.read_text("utf-8") if file.exists() else ""
    again = "RIDGES_WRITE_GOLDEN=1 pytest tests/golden/test_help.py"
    assert said == golden, f"`ridges {command} --help` changed; if that is meant, write {file.name} again: {again}"


def test_no_golden_file_is_left_over_from_a_command_that_went():
    assert {file.stem for file in HELP.glob("*.txt")} == {command.replace(" ", "-") or "ridges" for command in COMMANDS}
