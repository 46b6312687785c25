"""A gateway with all that it needs, for every test of it: a provider, the log, the process."""

import pytest
from integration.gateway_world import GatewayProcess, Log, MockProvider
from manager_process import end_managers
from moving_servers import new, old  # noqa: F401  # fixtures
from sandboxes import bubblewrap_works  # noqa: F401  # a fixture
from small_disk import small_disk  # noqa: F401  # a fixture


@pytest.fixture(autouse=True)
def _no_manager_outlives_its_test():
    yield
    end_managers()


@pytest.fixture
def mock():
    """A provider that misbehaves on request."""
    provider = MockProvider()
    yield provider
    provider.close()


@pytest.fixture
def log(nats_server):
    """The event log."""
    opened = Log(nats_server)
    yield opened
    opened.close()


@pytest.fixture
def start(tmp_path, nats_server):
    """Starts gateways that are gone after the test."""
    started = []

    def start_one(config, /, *, wait=True, **settings):
        gateway = GatewayProcess(tmp_path / f"gateway-{len(started)}", nats_server, config, **settings)
        started.append(gateway)
        return gateway.start(wait=wait)

    yield start_one
    for gateway in started:
        gateway.stop()
