import pytest

from ridges.chassis.settings import SettingsError, describe, load
from ridges.ledger.settings import LedgerSettings, is_loopback

NEEDED = {"RIDGES_BLOBS_URL": "file:///blobs", "RIDGES_STATE_DIR": "/state"}


def test_what_is_needed_is_little():
    settings = load(LedgerSettings, NEEDED)
    assert (settings.http_host, settings.http_port, settings.api_token) == ("127.0.0.1", 8100, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "ledger.example.org"])
def test_beyond_loopback_a_token_is_needed(host):
    with pytest.raises(SettingsError, match="RIDGES_API_TOKEN is not set"):
        load(LedgerSettings, NEEDED | {"RIDGES_HTTP_HOST": host})
    assert load(LedgerSettings, NEEDED | {"RIDGES_HTTP_HOST": host, "RIDGES_API_TOKEN": "x" * 16}).http_host == host


def test_a_token_that_can_be_guessed_is_refused():
    with pytest.raises(SettingsError, match="RIDGES_API_TOKEN"):
        load(LedgerSettings, NEEDED | {"RIDGES_API_TOKEN": "short"})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


def test_every_setting_says_what_it_means():
    assert all(meaning for *_, meaning in describe(LedgerSettings))
