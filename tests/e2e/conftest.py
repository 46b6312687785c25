from collections.abc import Iterator

import pytest
from e2e.openai_provider import provider  # noqa: F401  # a fixture
from e2e.project import Project, end_commands
from sandboxes import bubblewrap_works  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose embedded system is stopped at the end; nothing of it may be left."""
    made = Project(tmp_path_factory.mktemp("e2e"))
    yield made
    made.ridges("down")
    assert made.wait_for_nothing_left() == []


@pytest.fixture(scope="module")
def running_project(project: Project) -> Project:
    """A project with `ridges up`."""
    up = project.ridges("up", timeout_s=120)
    assert up.code == 0, up
    return project


@pytest.fixture(autouse=True)
def _no_command_outlives_its_test() -> Iterator[None]:
    yield
    end_commands()
