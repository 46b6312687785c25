"""Without root: a user with no rights, no name and no home, in a folder with a space in its path."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.project import Project
from unprivileged import UID, need_root, without_rights

pytestmark = [pytest.mark.timeout(300), pytest.mark.bubblewrap]


class UnprivilegedProject(Project):
    """A project that belongs to a user without rights, who runs the commands."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        stage, home = place / "stage", place / "home"
        stage.mkdir()
        home.mkdir()
        self.prefix = without_rights(stage)
        for name in ("USER", "LOGNAME", "XDG_RUNTIME_DIR"):
            self.env.pop(name, None)
        self.env["HOME"] = str(home)
        for path in (home, self.folder, *self.folder.rglob("*")):
            os.chown(path, UID, UID, follow_symlinks=False)


@pytest.fixture
def unprivileged(bubblewrap_works: None) -> Iterator[UnprivilegedProject]:
    need_root()
    place = Path(tempfile.mkdtemp(prefix="ridges-test-"))  # pytest's own directories are closed to others
    place.chmod(0o755)
    project = UnprivilegedProject(place)
    try:
        yield project
        assert project.ridges("down").code == 0
        assert project.wait_for_nothing_left() == []
    finally:
        shutil.rmtree(place)


def test_a_run_by_a_user_without_rights_is_resolved(unprivileged: UnprivilegedProject) -> None:
    ended = unprivileged.ridges(
        "run", "-a", "examples/agents/llm_agent.py", "-p", "fix-formula-signs", "--sandbox", "bubblewrap", "--json"
    )
    assert ended.code == 0, ended
    assert ended.document["verdict"] == "resolved"
    assert (unprivileged.folder / ".ridges" / "state.json").exists() is False
    owners = {path.lstat().st_uid for path in (unprivileged.folder / ".ridges").rglob("*")}
    assert owners == {UID}
    assert unprivileged.traces() == []


@pytest.mark.parametrize(("default", "status"), [("auto", "warning"), ("docker", "problem")])
def test_doctor_tells_who_may_not_use_the_engine_what_gives_the_right(
    unprivileged: UnprivilegedProject, default: str, status: str
) -> None:
    config = unprivileged.folder / "ridges.toml"
    config.write_text(f'{config.read_text()}\n[sandbox]\ndefault = "{default}"\n')
    engine_socket = unprivileged.folder.parent / "docker.sock"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(engine_socket))
        engine.listen()
        engine_socket.chmod(0o600)
        ended = unprivileged.ridges("doctor", "--json", env={"DOCKER_HOST": f"unix://{engine_socket}"})
    finding = {finding["name"]: finding for finding in json.loads(ended.stdout)}["sandbox docker"]
    assert finding == {
        "name": "sandbox docker",
        "status": status,
        "detail": f"no permission to use the Docker Engine at unix://{engine_socket}",
        "remedy": "add this user to its group: sudo usermod -aG docker $USER",
    }
    assert ended.code == (3 if status == "problem" else 0), ended
