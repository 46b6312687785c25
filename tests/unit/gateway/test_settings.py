"""Settings: read from RIDGES_*, and the README names each of them."""

from pathlib import Path

import pytest

from ridges.chassis.settings import SettingsError, describe, load
from ridges.gateway.settings import GatewaySettings

README = Path(__file__).resolve().parents[3] / "services" / "gateway" / "README.md"
NEEDED = {"RIDGES_CONFIG": "r.toml", "RIDGES_RUN_TOKEN_KEY": "ab" * 32, "RIDGES_BLOBS_URL": "file:///b"}


@pytest.mark.parametrize("variable", [row[0] for row in describe(GatewaySettings)])
def test_the_readme_names_every_setting(variable):
    assert f"`{variable}`" in README.read_text()


def test_the_three_needed_settings_are_enough():
    assert load(GatewaySettings, NEEDED).token_key == b"\xab" * 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(({variable: ""}, f"{variable} is not set") for variable in NEEDED),
        ({"RIDGES_RUN_TOKEN_KEY": "xyz"}, "RIDGES_RUN_TOKEN_KEY is not hex; make one with: openssl rand -hex 32"),
        ({"RIDGES_RUN_TOKEN_KEY": "ab"}, "RIDGES_RUN_TOKEN_KEY is shorter than 32 bytes"),
        ({"RIDGES_CALL_DEADLINE_S": "0"}, "RIDGES_CALL_DEADLINE_S must be more than 0"),
        ({"RIDGES_CONTENTS": "half"}, "RIDGES_CONTENTS is 'half'"),
    ],
)
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(SettingsError) as caught:
        load(GatewaySettings, NEEDED | changes)
    assert words in str(caught.value)
    assert "xyz" not in str(caught.value), "the key is a secret, also a wrong one"
