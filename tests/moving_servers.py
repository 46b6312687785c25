"""The two NATS servers of a move."""

import pytest
from nats_process import NatsServer


@pytest.fixture
def old(nats_server):
    """Where the log is, its streams declared."""
    return nats_server


@pytest.fixture
def new(tmp_path):
    """Where it goes: an empty server."""
    server = NatsServer(tmp_path / "new").start()
    yield server
    server.kill9()
