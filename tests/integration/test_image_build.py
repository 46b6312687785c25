"""``ridges image build`` with a real engine, and its words where there is none."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from docker_images import AGENT_IMAGE, docker, need_agent_image

REPOSITORY = Path(__file__).parents[2]


def build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return image("build", *arguments, **environment)


def image(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ridges.cli", "image", *arguments]
    env = dict(os.environ) | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)


def test_no_program_and_no_engine_are_told_apart(tmp_path):
    without = build(PATH=str(tmp_path))
    assert without.returncode == 3
    assert "no program `docker` on PATH" in without.stderr
    silent = build(DOCKER_HOST=f"unix://{tmp_path}/no.sock")
    assert silent.returncode == 3
    assert "no Docker Engine answers" in silent.stderr or "no program `docker`" in silent.stderr
    assert "bubblewrap, which needs no image" in silent.stderr
    assert "Traceback" not in silent.stderr


@pytest.mark.docker
def test_an_image_of_ones_own_is_built_and_found_fit(tmp_path):
    need_agent_image()
    tag = f"ridges-test-{uuid.uuid4()}"
    (tmp_path / "Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nENV MINE=1\n")
    try:
        built = build("--file", str(tmp_path / "Dockerfile"), "--tag", tag, "--base", AGENT_IMAGE, "--json")
        assert built.returncode == 0, built.stderr
        assert f'"image": "{tag}"' in built.stdout
        assert "MINE=1" in docker("image", "inspect", "-f", "{{.Config.Env}}", tag)
    finally:
        subprocess.run(["docker", "image", "rm", "-f", tag], capture_output=True, check=False)


@pytest.mark.docker
def test_an_image_that_sandboxes_cannot_use_says_what_it_lacks(tmp_path):
    need_agent_image()
    tag = f"ridges-test-{uuid.uuid4()}"
    (tmp_path / "Dockerfile").write_text(
        f"FROM {AGENT_IMAGE} AS full\nUSER 0\nRUN mkdir -p /only/bin && cp -L /bin/sh /only/bin/sh"
        " && cp -rL --parents /lib*/*-linux-gnu/libc.so.6 /lib64 /only/ 2>/dev/null || true\n"
        "FROM scratch\nCOPY --from=full /only /\n"
    )
    try:
        built = build("--file", str(tmp_path / "Dockerfile"), "--tag", tag)
        assert built.returncode == 3
        assert "sandboxes cannot use it: it lacks" in built.stderr
    finally:
        subprocess.run(["docker", "image", "rm", "-f", tag], capture_output=True, check=False)


def test_a_name_without_a_file_is_a_usage_error(tmp_path):
    need_agent_image()
    assert build("--tag", "x").returncode == 2
    assert build("--file", str(tmp_path / "no")).returncode == 2


@pytest.mark.docker
def test_the_agent_image_says_its_base_and_the_version_of_every_package():
    need_agent_image()
    told = json.loads(image("packages", "--json").stdout)
    assert told["image_id"] == docker("image", "inspect", "-f", "{{.Id}}", AGENT_IMAGE)
    assert told["base"]
    assert told["base_digest"].startswith("sha256:")
    packages = {(each["origin"], each["name"]): each["version"] for each in told["packages"]}
    query = ("dpkg-query", "-W", "-f", "${binary:Package}=${Version}\n")
    answer = docker("run", "--rm", "--network", "none", AGENT_IMAGE, *query)
    installed = dict(line.split("=", 1) for line in answer.splitlines())
    assert {name: version for (origin, name), version in packages.items() if origin == "debian"} == installed
    assert {"git", "nodejs", "python3"} <= installed.keys()
    locked = (REPOSITORY / "infra" / "images" / "agent" / "requirements.lock").read_text()
    python = {name: version for (origin, name), version in packages.items() if origin == "python"}
    assert len(python) > 10
    pins = {f"{name.lower().replace('_', '-')}=={version}" for name, version in python.items()}
    assert {pin for pin in pins if pin not in locked} == set()
    assert f"debian git {installed['git']}" in image("packages").stdout.splitlines()


@pytest.mark.docker
def test_an_image_that_does_not_say_is_named():
    need_agent_image()
    missing = image("packages", "ridges-no-such-image")
    assert missing.returncode == 3
    assert "ridges-no-such-image" in missing.stderr
    assert "ridges image build" in missing.stderr
