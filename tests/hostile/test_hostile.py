"""Hostile programs in every adapter that isolates."""

import pytest
from conformance.proxy_path_suite import proxy_dir  # noqa: F401  # a fixture
from hostile.hostile_suite import HostileSuite
from sandboxes import bubblewrap_works  # noqa: F401  # a fixture

from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox


@pytest.mark.bubblewrap
class TestBubblewrap(HostileSuite):
    @pytest.fixture
    def sandbox(self, bubblewrap_works):
        return BubblewrapSandbox()


@pytest.mark.bubblewrap
class TestBubblewrapWithoutControlGroups(HostileSuite):
    @pytest.fixture
    def sandbox(self, bubblewrap_works):
        return BubblewrapSandbox(control_groups=False)
