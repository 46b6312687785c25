"""`ridges demo`: what a newcomer sees first."""

import json
import shutil
from pathlib import Path

import pytest
from docker_images import need_agent_image
from e2e.empty_engine import EmptyEngine
from e2e.openai_provider import KEY, Provider, add_provider
from e2e.project import Project

ENDS = {
    "fix-room-clock-change": "resolved",
    "fix-formula-signs": "resolved",
    "create-energy-bill": "resolved",
    "create-undo-tree": "resolved",
    "fix-cache-half-fixed": "unresolved",
}


@pytest.fixture(params=["docker", "bubblewrap"])
def sandbox(request: pytest.FixtureRequest) -> str:
    """One that works on this machine."""
    if request.param == "docker":
        need_agent_image()
    else:
        request.getfixturevalue("bubblewrap_works")
    return str(request.param)


@pytest.mark.timeout(300)
def test_the_demo_ends_as_it_promises_and_stops_what_it_started(tmp_path: Path, sandbox: str) -> None:
    project = Project(tmp_path)
    ended = project.ridges("demo", "--sandbox", sandbox, "--json", timeout_s=270)
    assert ended.code == 0, ended
    rows = json.loads(ended.stdout)
    assert {row["problem"]: row["verdict"] for row in rows} == ENDS
    assert all(row["tests_passed"] == row["tests_total"] > 0 for row in rows if row["verdict"] == "resolved")
    assert all(row["requests"] > 0 and row["cost_nano_usd"] > 0 for row in rows)
    assert {row["sandbox"] for row in rows} == {sandbox}
    assert f"sandbox: {sandbox}\n" in ended.stderr
    assert "fix-cache-half-fixed ended unresolved on purpose: " in ended.stderr
    assert project.wait_for_nothing_left() == []

    shown = project.ridges("runs")
    assert shown.code == 0
    assert [problem for problem in ENDS if problem not in shown.stdout] == [], "what it did can be read later"


def one_example(project: Project) -> None:
    file = project.folder / "examples" / "demo.toml"
    file.write_text(
        file.read_text().split("[[example]]")[0] + '[[example]]\nproblem = "create-energy-bill"\nends = "resolved"\n'
    )


@pytest.mark.timeout(300)
def test_an_engine_without_the_image_is_named_with_what_was_tried(tmp_path: Path, bubblewrap_works: None) -> None:
    """The engine answers, cannot pull, and has no image: bubblewrap takes over and everybody is told why."""
    project = Project(tmp_path)
    one_example(project)
    with EmptyEngine(tmp_path / "engine.sock") as engine:
        ended = project.ridges("demo", "--json", env={"DOCKER_HOST": engine.url}, timeout_s=270)
    assert ended.code == 0, ended
    assert {row["sandbox"] for row in json.loads(ended.stdout)} == {"bubblewrap"}
    assert "sandbox: bubblewrap, because the sandbox image ridges-agent:latest is not on this machine" in ended.stderr
    assert "./just images agent" in ended.stderr
    if shutil.which("docker"):
        assert "trying to build it" in ended.stderr
        assert "the image was not built" in ended.stderr


@pytest.mark.timeout(300)
def test_no_engine_at_all_is_named(tmp_path: Path, bubblewrap_works: None) -> None:
    project = Project(tmp_path)
    one_example(project)
    ended = project.ridges("demo", "--json", env={"DOCKER_HOST": f"unix://{tmp_path}/nowhere.sock"}, timeout_s=270)
    assert ended.code == 0, ended
    assert "sandbox: bubblewrap, because no Docker Engine answers at unix://" in ended.stderr
    assert "trying to build" not in ended.stderr


@pytest.mark.timeout(300)
def test_with_a_provider_in_the_configuration_the_demo_asks_its_model(
    tmp_path: Path, provider: Provider, bubblewrap_works: None
) -> None:
    """The same command; what a live model makes of the problems is a result, not a failure of the demo."""
    project = Project(tmp_path)
    add_provider(project, provider.port)
    file = project.folder / "ridges.toml"
    file.write_text(file.read_text().replace('[run]\nmodel = "live-1"\n', ""))
    key = {"MY_PROVIDER_KEY": KEY}
    ended = project.ridges("demo", "--sandbox", "bubblewrap", "--json", env=key, timeout_s=270)
    assert ended.code == 0, ended
    assert "model: live-1\n" in ended.stderr
    rows = json.loads(ended.stdout)
    assert {row["problem"] for row in rows} == set(ENDS)
    assert all(row["requests"] > 0 and row["cost_nano_usd"] > 0 for row in rows)
    assert {body["model"] for _, body in provider.asked} == {"vendor/live-one"}
    assert {authorization for authorization, _ in provider.asked} == {f"Bearer {KEY}"}
    assert "on purpose" not in ended.stderr, "that is told of recordings only"


def test_the_demo_says_where_it_must_run(project: Project) -> None:
    (project.folder / "examples" / "demo.toml").unlink()
    ended = project.ridges("demo", "--json")
    assert (ended.code, ended.stdout) == (2, "")
    assert "demo.toml is missing" in ended.stderr
