"""Hostile programs in every adapter that isolates, and in each of its modes."""

import contextlib
import tempfile
import uuid
from pathlib import Path
from typing import ClassVar

import pytest
from docker_images import AGENT_IMAGE, docker, need_agent_image
from hostile.cases import Case, Ended
from hostile.hostile_suite import HostileSuite, test_every_program_of_the_folder_is_tried  # noqa: F401
from sandboxes import Relayed

from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.docker_config import OWNER_LABEL
from ridges.sandbox_manager.docker_engine import DockerSandbox


def out_of_memory_or_well(ended: Ended) -> None:
    assert ended.end.exit.out_of_memory or ended.end.exit.exit_code == 0


@pytest.mark.bubblewrap
class TestBubblewrap(HostileSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def technology(cls, bubblewrap_works):
        @contextlib.asynccontextmanager
        async def opened():
            yield BubblewrapSandbox()

        return opened


@pytest.mark.bubblewrap
class TestBubblewrapWithoutControlGroups(HostileSuite):
    """Memory is polled there: `ridges doctor` says so."""

    weaker: ClassVar = {
        # pipes and sockets hold memory that belongs to no process: nobody counts it without a control group
        "resources/pipe_bomb": lambda ended: None,
        # the watch sees one sum for all processes, and ends all of them
        "resources/child_out_of_memory": out_of_memory_or_well,
    }

    @pytest.fixture(scope="class")
    @classmethod
    def technology(cls, bubblewrap_works):
        @contextlib.asynccontextmanager
        async def opened():
            yield BubblewrapSandbox(control_groups=False)

        return opened


@pytest.mark.docker
class TestDocker(HostileSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def technology(cls):
        need_agent_image()
        return docker_technology


@pytest.mark.docker
class TestDockerInternal(HostileSuite):
    """Each with a relay that shares its network, also where nobody serves behind it."""

    company: ClassVar = Case(proxied=True)

    @pytest.fixture(scope="class")
    @classmethod
    def technology(cls):
        need_agent_image()

        @contextlib.asynccontextmanager
        async def opened():
            with tempfile.TemporaryDirectory() as nowhere:
                async with docker_technology(network="internal") as sandbox:
                    yield Relayed(sandbox, Path(nowhere))

        return opened


@contextlib.asynccontextmanager
async def docker_technology(**settings):
    owner = f"hostile-{uuid.uuid4()}"
    with tempfile.TemporaryDirectory() as state_dir:
        hosts_file = Path(state_dir) / "hosts"
        sandbox = DockerSandbox(owner=owner, default_image=AGENT_IMAGE, hosts_file=hosts_file, **settings)
        try:
            yield sandbox
        finally:
            await sandbox.close()
            for kind in ("container", "network", "volume"):
                everything = ("--all",) if kind == "container" else ()
                left = docker(kind, "ls", "-q", *everything, "--filter", f"label={OWNER_LABEL}={owner}")
                assert left == "", f"{kind}s left"
