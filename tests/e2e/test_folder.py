"""What can be wrong with a folder or a machine: each gets a word that says what to do."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from e2e.project import Project


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return Project(tmp_path)


def change(project: Project, before: str, after: str) -> None:
    file = project.folder / "ridges.toml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def test_an_unknown_key_in_the_configuration_is_named(fresh: Project) -> None:
    (fresh.folder / "ridges.toml").write_text(
        "[sandbox]\ncolour = 'red'\n" + (fresh.folder / "ridges.toml").read_text()
    )
    ended = fresh.ridges("up")
    assert ended.code == 2
    assert "colour" in ended.stderr
    assert fresh.wait_for_nothing_left() == []


def test_an_unknown_provider_key_is_named_and_nothing_stays_running(fresh: Project) -> None:
    change(fresh, "[[provider]]", '[[provider]]\nprise = "1"')
    ended = fresh.ridges("up")
    assert ended.code != 0
    assert "prise" in ended.stderr
    assert fresh.wait_for_nothing_left() == []


def test_a_taken_port_is_named(fresh: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (fresh.folder / "ridges.toml").write_text(
            (fresh.folder / "ridges.toml").read_text() + f"\n[ports]\nledger = {port}\n"
        )
        ended = fresh.ridges("up")
    assert ended.code == 3
    assert str(port) in ended.stderr
    assert "[ports]" in ended.stderr


def test_reading_where_nothing_was_run_says_so(fresh: Project) -> None:
    ended = fresh.ridges("runs")
    assert ended.code == 3
    assert "ridges run" in ended.stderr


def test_doctor_names_what_is_wrong_with_its_remedy(fresh: Project) -> None:
    (fresh.folder / "ridges.toml").unlink()
    ended = fresh.ridges("doctor", "--json")
    assert ended.code == 3
    assert "ridges.toml is missing" in ended.stdout


@pytest.mark.parametrize("after_s", [0.3, 1.5, 4.0])
def test_ctrl_c_in_any_phase_ends_with_130_and_leaves_nothing(fresh: Project, after_s: float) -> None:
    command = fresh.start(
        "run", "-a", "examples/agents/llm_agent.py", "-p", "fix-formula-signs", "--sandbox", "bubblewrap"
    )
    time.sleep(after_s)
    os.kill(command.pid, signal.SIGINT)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert fresh.wait_for_nothing_left() == []


def test_two_ups_at_once_make_one_system(fresh: Project) -> None:
    first, second = fresh.start("up"), fresh.start("up")
    for command in (first, second):
        _, stderr = command.communicate(timeout=120)
        assert command.returncode == 0, stderr
    assert fresh.ridges("down").code == 0
    assert fresh.wait_for_nothing_left() == []
