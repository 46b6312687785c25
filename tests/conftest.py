"""Fixtures that several kinds of tests share."""

import os

import pytest
from nats_process import NatsServer

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # some tests import gRPC ahead of the chassis, which sets it too


@pytest.fixture
def nats_server(tmp_path):
    """A running nats-server of this test alone (sync_interval always, streams declared), gone after it."""
    server = NatsServer(tmp_path / "nats").start()
    try:
        server.migrate_now()
        yield server
    finally:
        server.kill9()
