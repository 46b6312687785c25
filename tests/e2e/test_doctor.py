"""`ridges doctor` names each thing that is missing or set wrong, with the command that mends it."""

import json
import shlex
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from e2e.project import Project

KEYED = """
[[provider]]
name = "somewhere"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
key_env = "SOMEWHERE_API_KEY"
[[provider.model]]
name = "m"
context = 8
max_output = 8
input_usd = "0"
output_usd = "0"
"""
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


@pytest.fixture
def folder(tmp_path: Path) -> Project:
    return Project(tmp_path)


def examine(folder: Project, env: Mapping[str, str] = NO_ENGINE) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the findings by name."""
    ended = folder.ridges("doctor", "--json", env=env)
    assert "Traceback" not in ended.stderr
    return ended.code, {finding["name"]: finding for finding in json.loads(ended.stdout)}


def add(folder: Project, text: str) -> None:
    file = folder.folder / "ridges.toml"
    file.write_text(file.read_text() + text)


@pytest.mark.bubblewrap
def test_a_good_folder_without_an_engine_is_fine(folder: Project, bubblewrap_works: None) -> None:
    code, findings = examine(folder)
    assert code == 0, findings
    assert findings["sandbox bubblewrap"]["status"] == "ok"
    assert findings["sandbox docker"]["status"] == "warning", "the other one works"
    assert "start it" in findings["sandbox docker"]["remedy"]
    assert "ridges up" in findings["system"]["detail"]


def test_a_missing_key_comes_with_the_export_that_sets_it(folder: Project) -> None:
    add(folder, KEYED)
    code, findings = examine(folder)
    assert (code, findings["configuration"]["status"]) == (3, "problem")
    assert findings["configuration"]["remedy"] == "export SOMEWHERE_API_KEY=…"
    code, findings = examine(folder, NO_ENGINE | {"SOMEWHERE_API_KEY": "sk-secret"})
    assert findings["configuration"]["status"] == "ok"
    assert "sk-secret" not in json.dumps(findings)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[sandbox]\ncolour = 'red'\n", "colour"),
        ("[sandbox\n", "TOML"),
        ('[[provider]]\nname = "x"\nkind = "openai"\nprise = "1"\n', "prise"),
        ('[[provider]]\nname = "x"\nkind = "replay"\n[[provider.model]]\nname = "m"\n', "context"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(folder: Project, text: str, word: str) -> None:
    add(folder, text)
    code, findings = examine(folder)
    assert (code, findings["configuration"]["status"]) == (3, "problem")
    assert word in findings["configuration"]["detail"]
    assert str(folder.folder / "ridges.toml") in findings["configuration"]["remedy"]


def test_a_folder_that_is_no_problem_is_named_with_its_reasons(folder: Project) -> None:
    broken = folder.folder / "examples" / "problems" / "create-nothing"
    broken.mkdir()
    (broken / "instructions.md").write_text("# Nothing\n")
    _, findings = examine(folder)
    assert findings["problems"]["detail"] == "5 usable"
    assert findings["problem folder"]["status"] == "warning"
    assert all(word in findings["problem folder"]["detail"] for word in ("create-nothing", "tests.py is missing"))
    assert findings["problem folder"]["remedy"] == "ridges problem check create-nothing"


def test_a_configured_port_that_is_taken_is_named(folder: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        add(folder, f"[ports]\nledger = {port}\n")
        code, findings = examine(folder)
        assert (code, findings["ports"]["status"]) == (3, "problem")
        assert findings["ports"]["detail"] == f"port {port} for ledger is taken"
        assert findings["ports"]["remedy"].startswith(f"ss -ltnp 'sport = :{port}'")
    assert examine(folder)[1]["ports"]["status"] == "ok"


def test_the_remedy_for_a_folder_is_a_command_that_this_machine_has(folder: Project) -> None:
    """Everything that can be wrong with a folder at once."""
    (folder.folder / "examples" / "problems" / "create-nothing").mkdir()
    add(folder, KEYED + '[sandbox]\nagent_python = "/nowhere/python"\n[problems]\ndirs = ["nowhere"]\n')
    file = folder.folder / "ridges.toml"
    file.write_text(file.read_text().replace('[problems]\ndirs = ["examples/problems"]\n', ""))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        add(folder, f"[ports]\nnats = {taken.getsockname()[1]}\n")
        ended = folder.ridges("doctor", "--json", env=NO_ENGINE)
    findings = [finding for finding in json.loads(ended.stdout) if finding["status"] != "ok"]
    assert {finding["name"] for finding in findings} >= {"configuration", "ports", "problem folder"}, findings
    for finding in findings:
        if not finding["name"].startswith("sandbox"):
            program = shlex.split(finding["remedy"], comments=True)[0]
            assert program in ("ridges", "./just", "export") or shutil.which(program), finding


def test_the_sandbox_that_was_asked_for_must_work(folder: Project) -> None:
    add(folder, '[sandbox]\ndefault = "docker"\n')
    code, findings = examine(folder)
    assert (code, findings["sandbox docker"]["status"]) == (3, "problem")


def test_an_interpreter_that_does_not_run_is_named(folder: Project) -> None:
    add(folder, '[sandbox]\nagent_python = "/nowhere/python"\n')
    code, findings = examine(folder)
    assert (code, findings["sandbox bubblewrap"]["status"]) == (3, "problem")
    assert "/nowhere/python" in findings["sandbox bubblewrap"]["detail"]


def test_people_see_the_remedy_below_the_problem(folder: Project) -> None:
    (folder.folder / "ridges.toml").unlink()
    ended = folder.ridges("doctor", env=NO_ENGINE)
    assert ended.code == 3
    assert "PROBLEM" in ended.stdout
    assert "→ cp " in ended.stdout
