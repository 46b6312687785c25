"""The folder `.ridges/`: one supervisor at a time, secrets that stay, and a state that is never half written."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from ridges.cli.embedded.state import StateDir, SystemState
from ridges.cli.errors import CliError

HOLDER = """
import sys
from pathlib import Path
from ridges.cli.embedded.state import StateDir

with StateDir(Path(sys.argv[1])).hold():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.delenv("RIDGES_HOME", raising=False)
    made = StateDir(tmp_path)
    made.create()
    return made


def system_state(**changes):
    urls = dict.fromkeys(
        ("nats_url", "ledger_url", "gateway_url", "sandbox_manager_url", "evaluator_url"), "http://127.0.0.1:1"
    )
    fields = {"supervisor_pid": 1, "phase": "ready", "detail": "", "pids": {}, "started_at": datetime.now(UTC)}
    return SystemState(**(urls | fields | changes))


def test_the_folder_is_for_its_owner_only(state):
    assert state.path.stat().st_mode & 0o077 == 0


def test_one_holder_at_a_time(state):
    assert not state.locked()
    with state.hold():
        assert state.locked()
        with pytest.raises(CliError, match="ridges down"), StateDir(state.root).hold():
            pass
    assert not state.locked()
    with state.hold():
        pass


def test_a_dead_holder_holds_nothing_and_its_state_does_not_count(state):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        state.write(system_state(supervisor_pid=holder.pid))
        assert state.locked()
        running = state.read()
        assert running is not None
        assert running.supervisor_pid == holder.pid
        holder.kill()
    assert not state.locked()
    assert state.read() is None


def test_a_state_that_cannot_be_read_is_none(state):
    with state.hold():
        assert state.read() is None
        (state.path / "state.json").write_text("{")
        assert state.read() is None


def test_nothing_half_written_stays(state):
    state.write(system_state())
    state.run_token_key()
    assert list(state.path.rglob("*.new")) == []


def test_secrets_are_made_once_for_each_folder(state, tmp_path):
    key = state.run_token_key()
    assert len(bytes.fromhex(key)) == 32
    assert StateDir(state.root).run_token_key() == key
    assert (state.path / "run_token_key").stat().st_mode & 0o077 == 0
    other = StateDir(tmp_path / "other")
    other.create()
    assert other.run_token_key() != key


def test_a_system_that_does_not_start_leaves_no_wish_to_stay(state):
    with pytest.raises(CliError), state.staying_up():
        raise CliError("it does not start")
    assert not state.stays_up
    with state.staying_up():
        pass
    assert state.stays_up
    with pytest.raises(CliError), state.staying_up():
        raise CliError("a second `ridges up` fails")
    assert state.stays_up


def test_the_place_can_be_set_and_one_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RIDGES_HOME", str(tmp_path / "file" / "state"))
    (tmp_path / "file").touch()
    elsewhere = StateDir(tmp_path)
    assert elsewhere.path == tmp_path / "file" / "state"
    with pytest.raises(CliError, match="RIDGES_HOME"):
        elsewhere.create()
