"""``ridges image build`` with a real engine, and its words where there is none."""

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_images import AGENT_IMAGE, docker, need_agent_image

REPOSITORY = Path(__file__).parents[2]
NOWHERE = {"DEBIAN_MIRROR": "http://127.0.0.1:1", "DEBIAN_SNAPSHOT": "http://127.0.0.1:1", "UV_OFFLINE": "1"}
"""An environment in which no package can be fetched."""


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


@pytest.fixture(scope="module")
def base() -> str:
    need_agent_image()
    label = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'
    return docker("image", "inspect", "-f", label, AGENT_IMAGE)


@pytest.fixture
def tag() -> Iterator[str]:
    tag = f"test-{uuid.uuid4()}"
    yield tag
    subprocess.run(["docker", "image", "rm", "-f", f"ridges-agent:{tag}"], capture_output=True, check=False)


def build_agent(base: str, tag: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) | {"BASE_IMAGE": base, "IMAGE_TAG": tag} | environment
    command = [REPOSITORY / "just", "images", "agent"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.docker
@pytest.mark.timeout(400)
def test_a_build_holds_the_locked_packages_beside_its_bases_and_the_next_needs_no_network(base, tag):
    first = build_agent(base, tag)
    assert first.returncode == 0, first.stderr
    made = packages_of(f"ridges-agent:{tag}")
    again = build_agent(base, tag, **NOWHERE)
    assert again.returncode == 0, again.stderr
    assert "0 fetched now" in again.stderr
    assert packages_of(f"ridges-agent:{tag}") == made
    tell = ". /etc/os-release; echo $VERSION_CODENAME-$(dpkg --print-architecture)"
    release = docker("run", "--rm", base, "sh", "-c", tell)
    text = (REPOSITORY / "infra" / "images" / "agent" / "debian" / f"{release}.lock").read_text()
    locked = dict(re.findall(r"^Package: (.*)\nVersion: (.*)$", text, re.MULTILINE))
    own = packages_of(base)
    added = {name: version for name, version in made.items() if own.get(name) != version}
    assert {"nodejs", "ripgrep"} <= added.keys()
    assert added == {name: locked.get(name.split(":")[0]) for name in added}
    assert own.keys() <= made.keys()


def packages_of(image: str) -> dict[str, str]:
    query = ("dpkg-query", "-W", "-f", "${binary:Package} ${Version}\n")
    answer = docker("run", "--rm", "--network", "none", image, *query)
    return dict(line.split(" ") for line in answer.splitlines())


def fetch(base: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / "infra" / "images" / "debian.py", "fetch", base, folder]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.docker
def test_a_base_whose_packages_do_not_go_with_the_lock_is_refused_by_their_names(base, tag, tmp_path):
    """It has a library of node's in a version to come."""
    library = docker("run", "--rm", AGENT_IMAGE, "dpkg-query", "-W", "-f", "${Package}\n", "libnode*").split()[0]
    known = ("Status: install ok installed", "Version: 99", "Architecture: all", "Maintainer: x")
    fields = ("", f"Package: {library}", *known)
    dockerfile = f"FROM {base}\nRUN printf '%s\\n' {shlex.join(fields)} >>/var/lib/dpkg/status\n"
    odd = f"ridges-agent:{tag}"
    subprocess.run(["docker", "build", "-t", odd, "-"], input=dockerfile, text=True, capture_output=True, check=True)
    refused = fetch(odd, tmp_path)
    assert refused.returncode == 3
    assert f"the packages that {odd} has do not go with" in refused.stderr
    assert f"Depends: {library}" in refused.stderr
    assert f"BASE_IMAGE={odd} ./just lock-debian" in refused.stderr


@pytest.mark.docker
def test_a_build_that_holds_another_version_than_the_locked_one_fails(base, tmp_path):
    assert fetch(base, tmp_path / "debian").returncode == 0
    expected = tmp_path / "debian" / "expected"
    expected.write_text(re.sub("^debian ripgrep .*", "debian ripgrep 0", expected.read_text(), flags=re.MULTILINE))
    for name, text in {"bin/program": "#!/usr/bin/python3\n", "x.dist-info/RECORD": "bin/program,,\n"}.items():
        (tmp_path / "packages" / name).parent.mkdir(parents=True)
        (tmp_path / "packages" / name).write_text(text)
    file = str(REPOSITORY / "infra" / "images" / "agent" / "Dockerfile")
    options = ("--network", "none", "--build-arg", f"BASE_IMAGE={base}", "--file", file)
    built = subprocess.run(["docker", "build", *options, tmp_path], capture_output=True, text=True, check=False)
    assert built.returncode != 0
    assert "< debian ripgrep 0" in built.stdout + built.stderr
