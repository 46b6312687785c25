"""What can be wrong with a folder or a machine: each gets a word that says what to do."""

import json
import socket
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
    assert ended.code == 2
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


@pytest.mark.parametrize("command", ["up", "run"])
def test_a_missing_key_is_named_with_line_and_export(fresh: Project, command: str) -> None:
    (fresh.folder / "ridges.toml").write_text(
        '[[provider]]\nname = "x"\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nkey_env = "SOME_KEY"\n'
        '[[provider.model]]\nname = "m"\ncontext = 8\nmax_output = 8\ninput_usd = "0"\noutput_usd = "0"\n'
    )
    more = ("-a", "examples/agents/noop_agent.py", "-p", "fix-formula-signs") if command == "run" else ()
    ended = fresh.ridges(command, *more)
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert "line 5" in ended.stderr
    assert "export SOME_KEY=" in ended.stderr
    assert fresh.wait_for_nothing_left() == []


SECTIONS = ("[sandbox]", "[problems]", "[ports]", "[run]", "[[provider]]", "[[provider.model]]", "[colours]")


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_in_any_section_is_wrong_use(fresh: Project, section: str) -> None:
    file = fresh.folder / "ridges.toml"
    text = file.read_text()
    if section in text:
        file.write_text(text.replace(section, f'{section}\ncolour = "red"', 1))
    else:
        file.write_text(f'{text}\n{section}\ncolour = "red"\n')
    ended = fresh.ridges("run", "-a", "examples/agents/noop_agent.py", "-p", "fix-formula-signs")
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert "colour" in ended.stderr
    assert "ridges.toml" in ended.stderr
    assert fresh.wait_for_nothing_left() == []


def test_no_configuration_at_all_is_wrong_use(fresh: Project) -> None:
    (fresh.folder / "ridges.toml").unlink()
    ended = fresh.ridges("up")
    assert ended.code == 2, ended
    assert "ridges.toml" in ended.stderr
    assert fresh.wait_for_nothing_left() == []


def test_a_new_folder_has_no_runs(fresh: Project) -> None:
    ended = fresh.ridges("runs", "--json")
    assert (ended.code, ended.document) == (0, {"runs": [], "next_cursor": None})
    ended = fresh.ridges("runs")
    assert ended.code == 0
    assert "ridges run" in ended.stderr
    assert not (fresh.folder / ".ridges" / "nats").exists(), "nothing was started for that"


def test_the_first_run_of_a_folder_cannot_be_shown_before_it(fresh: Project) -> None:
    ended = fresh.ridges("show", "0190a1b2")
    assert ended.code == 3
    assert "ridges run" in ended.stderr


def test_a_folder_that_is_no_problem_is_named_with_its_reasons(fresh: Project) -> None:
    broken = fresh.folder / "examples" / "problems" / "create-nothing"
    broken.mkdir()
    (broken / "instructions.md").write_text("# Nothing\n")
    ended = fresh.ridges("run", "-a", "examples/agents/noop_agent.py", "-p", "create-nothing")
    assert (ended.code, ended.stdout) == (2, ""), ended
    for word in ("create-nothing cannot be used", "tests.py is missing", str(broken), "ridges problem check"):
        assert word in ended.stderr

    listed = fresh.ridges("problem", "list", "--json")
    rows = {row["problem_id"]: row for row in json.loads(listed.stdout)}
    assert (rows["create-nothing"]["state"], rows["fix-formula-signs"]["state"]) == ("broken", "published")
    assert "tests.py is missing" in rows["create-nothing"]["reasons"]
    assert rows["fix-formula-signs"]["reasons"] == []
    told = fresh.ridges("problem", "list")
    assert "create-nothing cannot be used: " in told.stderr
    assert "create-nothing" not in told.stdout


def test_the_sandbox_that_isolates_nothing_works_and_is_warned_of(fresh: Project) -> None:
    command = "run -a examples/agents/llm_agent.py -p create-energy-bill --sandbox process --json"
    ended = fresh.ridges(*command.split())
    assert (ended.code, ended.document["verdict"], ended.document["sandbox"]) == (0, "resolved", "process"), ended
    assert "WARNING: the sandbox 'process' isolates NOTHING" in ended.stderr
    up = fresh.ridges("up", "--sandbox", "process")
    assert (up.code, "WARNING" in up.stderr) == (0, True), up
    plain = fresh.ridges("run", "-a", "examples/agents/noop_agent.py", "-p", "create-energy-bill")
    assert "WARNING" in plain.stderr, "the one who runs is warned, too"
    assert fresh.ridges("down").code == 0


def test_a_full_disk_can_be_allowed_as_the_message_says(fresh: Project) -> None:
    """The embedded sandbox-manager hears the variables that its messages name."""
    command = "run -a examples/agents/noop_agent.py -p create-energy-bill --sandbox bubblewrap --json"
    enough = fresh.ridges(*command.split(), env={"RIDGES_MIN_FREE_BYTES": "1"})
    assert enough.code == 1, enough
    wrong = fresh.ridges(*command.split(), env={"RIDGES_MIN_FREE_BYTES": "much"})
    assert wrong.code == 2, wrong
    assert "RIDGES_MIN_FREE_BYTES" in wrong.stderr


def test_doctor_names_what_is_wrong_with_its_remedy(fresh: Project) -> None:
    (fresh.folder / "ridges.toml").unlink()
    ended = fresh.ridges("doctor", "--json")
    assert ended.code == 3
    assert "ridges.toml is missing" in ended.stdout


def test_two_ups_at_once_make_one_system(fresh: Project) -> None:
    first, second = fresh.start("up"), fresh.start("up")
    for command in (first, second):
        _, stderr = command.communicate(timeout=120)
        assert command.returncode == 0, stderr
    assert fresh.ridges("down").code == 0
    assert fresh.wait_for_nothing_left() == []
