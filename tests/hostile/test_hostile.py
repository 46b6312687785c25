"""Hostile programs in every adapter that isolates."""

import pytest
from hostile.hostile_suite import HostileSuite

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
