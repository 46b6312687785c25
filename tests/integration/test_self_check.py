"""`python -m ridges.sandbox_manager.self_check`: which sandboxes this machine can start."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from docker_images import need_agent_image
from sandboxes import bubblewrap_works  # noqa: F401  # a fixture
from unprivileged import need_root, without_rights


@pytest.fixture
def public_dir():
    """A directory that every user may enter, with an empty one ``stage``."""
    made = Path(tempfile.mkdtemp(prefix="ridges-test-"))
    made.chmod(0o755)
    (made / "stage").mkdir()
    yield made
    shutil.rmtree(made)


def self_check(prefix=(), **environ):
    """What each technology said, by its name."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "ridges.sandbox_manager.self_check"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "DOCKER_HOST": "unix:///nowhere/docker.sock"} | environ,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    checked = json.loads(done.stdout)
    assert all(set(entry) == {"name", "works", "detail", "remedy", "guarantees"} for entry in checked)
    return {entry["name"]: entry for entry in checked}


@pytest.mark.bubblewrap
def test_bubblewrap_works_and_a_missing_engine_is_told_with_its_remedy(bubblewrap_works):  # noqa: F811
    checked = self_check()
    assert list(checked) == ["docker", "bubblewrap"]
    assert (checked["bubblewrap"]["works"], checked["bubblewrap"]["remedy"]) == (True, None)
    promises = {each["promise"]: each["holds"] for each in checked["bubblewrap"]["guarantees"]}
    assert len(promises) == 16
    assert promises["services of the host are out of reach"]
    assert promises["no process of it is left"]
    assert checked["docker"]["guarantees"] == []
    assert checked["docker"]["works"] is False
    assert "no Docker Engine answers at unix:///nowhere/docker.sock" in checked["docker"]["detail"]
    assert "start" in checked["docker"]["remedy"]


def test_an_interpreter_that_does_not_run_is_named():
    checked = self_check(RIDGES_AGENT_PYTHON="/nowhere/python")
    assert checked["bubblewrap"]["works"] is False
    assert "/nowhere/python" in checked["bubblewrap"]["detail"]
    assert "RIDGES_AGENT_PYTHON" in checked["bubblewrap"]["remedy"]


@pytest.mark.docker
def test_docker_works_and_a_missing_image_is_told_with_what_builds_it():
    need_agent_image()
    engine = {"DOCKER_HOST": os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")}
    checked = self_check(**engine)
    for name, many in (("docker", 16), ("docker internal", 18)):
        works = checked[name]
        assert works["works"] is True
        assert len(works["guarantees"]) == many
        assert all(each["holds"] for each in works["guarantees"]), works["guarantees"]
    missing = self_check(**engine, RIDGES_AGENT_IMAGE="ridges-nowhere:1")["docker"]
    assert missing["works"] is False
    assert "ridges-nowhere:1" in missing["detail"]
    assert "./just images" in missing["remedy"]


def test_an_engine_without_permission_is_told_with_the_command_that_gives_it(public_dir):
    socket_path = public_dir / "docker.sock"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(socket_path))
        engine.listen()
        prefix = []
        if os.geteuid() == 0:
            socket_path.chmod(0o600)
            need_root()
            prefix = without_rights(public_dir / "stage")
        else:
            socket_path.chmod(0)
        docker = self_check(prefix, DOCKER_HOST=f"unix://{socket_path}")["docker"]
    assert docker["works"] is False
    assert docker["detail"] == f"no permission to use the Docker Engine at unix://{socket_path}"
    assert docker["remedy"] == "add this user to its group: sudo usermod -aG docker $USER"
