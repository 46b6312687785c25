"""Hostile programs in every adapter that isolates, and in each of its modes."""

import contextlib
import uuid

import pytest
from docker_images import AGENT_IMAGE, docker, need_agent_image
from hostile.hostile_suite import HostileSuite, test_every_program_of_the_folder_is_tried  # noqa: F401

from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.docker_config import OWNER_LABEL
from ridges.sandbox_manager.docker_engine import DockerSandbox


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


@contextlib.asynccontextmanager
async def docker_technology(**settings):
    owner = f"hostile-{uuid.uuid4()}"
    sandbox = DockerSandbox(owner=owner, default_image=AGENT_IMAGE, **settings)
    try:
        yield sandbox
    finally:
        await sandbox.close()
        ours = f"label={OWNER_LABEL}={owner}"
        for kind in ("container", "network", "volume"):
            everything = ("--all",) if kind == "container" else ()
            assert docker(kind, "ls", "-q", *everything, "--filter", ours) == "", f"{kind}s left"
