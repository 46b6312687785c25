"""Fixtures that several kinds of tests share."""

import pytest
from nats_process import NatsServer


@pytest.fixture
def nats_server(tmp_path):
    """A running nats-server of this test alone (sync_interval always, streams declared), gone after it."""
    server = NatsServer(tmp_path / "nats").start()
    try:
        server.migrate_now()
        yield server
    finally:
        server.kill9()
