"""Passes over a log whose server speaks TLS only."""

import shutil
import subprocess
import time

import pytest
from integration.ledger_process import LedgerProcess
from integration.migration_world import migrated, told
from integration.test_ledger_passes import result_of, write
from nats_process import NatsServer
from unit.ledger.samples import Author

from ridges.chassis.jetstream.bulk import last_position
from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.wire import Wire
from ridges.chassis.ports import EventRefused

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes the certificate, is missing")


class TlsServer(NatsServer):
    """Refuses plain connections."""

    @property
    def url(self):
        return f"tls://127.0.0.1:{self.port}"


@pytest.fixture
def certificate(tmp_path):
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=nats", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
    return tmp_path / "certificate.pem"


@pytest.fixture
def tls_server(tmp_path, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{tmp_path}/key.pem" }}'
    server = TlsServer(tmp_path / "nats", extra=tls).start()
    try:
        server.migrate_now()
        yield server
    finally:
        server.kill9()


async def test_passes_read_the_whole_log(tls_server, tmp_path):
    last = await write(tls_server, Author(), range(5))
    ledger = LedgerProcess(tls_server, tmp_path / "ledger", RIDGES_SETTLE_GRACE_S="0").start()
    try:
        await ledger.until_ready()
        for path in ("rebuild", "verify", "archive"):
            result = await result_of(ledger, f"/v1/admin/{path}")
            assert result["events"] == last, result
    finally:
        ledger.kill9()
    assert last_position(Place(url=tls_server.url, name="test")) == last


async def test_the_log_moves_away_from_such_a_server(tls_server, tmp_path):
    await write(tls_server, Author(), range(3))
    plain = NatsServer(tmp_path / "plain").start()
    try:
        code, result = await migrated(tls_server, plain)
        assert (code, result["ok"]) == (0, True), result
        assert told(plain) == told(tls_server)
    finally:
        plain.kill9()


def test_a_certificate_that_nobody_trusts_is_refused_at_once_with_what_to_set(tls_server, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    began = time.monotonic()
    with pytest.raises(EventRefused, match="SSL_CERT_FILE"):
        last_position(Place(url=tls_server.url, name="test"))
    assert time.monotonic() - began < 20, "no retries"


def test_a_server_that_another_one_told_of_has_the_certificate_of_the_cluster(tls_server):
    place, told_of = Place(url=tls_server.url, name="test"), f"tls://localhost:{tls_server.port}"
    with Wire(place, told_of) as wire:  # the certificate names 127.0.0.1 alone
        assert wire.epoch()
