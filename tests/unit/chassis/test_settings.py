"""Settings from the environment: what a person who set something wrong gets to read."""

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from ridges.chassis.settings import SettingsError, describe, load


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    nats_url: str = "nats://127.0.0.1:4222"
    """Where the log is."""
    log_format: Literal["json", "console"] = "json"
    nats_user: str | None = None


class Settings(Shared, frozen=True, kw_only=True):
    http_port: int
    """Port of the HTTP API.

    Over two lines."""
    state_dir: Path = Path("/var/lib/ridges")
    drain_timeout_s: float = 20
    allow: bool = False
    names: tuple[str, ...] = ("a", "b")
    monitor: Path | None = None


GOOD = {"RIDGES_HTTP_PORT": "8100"}


def test_defaults_hold_where_nothing_is_set():
    assert load(Settings, GOOD) == Settings(http_port=8100)


def test_every_kind_of_value_is_read():
    environ = GOOD | {
        "RIDGES_STATE_DIR": "/tmp/a b",
        "RIDGES_DRAIN_TIMEOUT_S": "1.5",
        "RIDGES_ALLOW": "true",
        "RIDGES_NAMES": "x, y,,z ",
        "RIDGES_MONITOR": "/m",
        "RIDGES_LOG_FORMAT": "console",
        "RIDGES_NATS_USER": "me",
        "HOME": "/root",
    }
    assert load(Settings, environ) == Settings(
        http_port=8100,
        state_dir=Path("/tmp/a b"),
        drain_timeout_s=1.5,
        allow=True,
        names=("x", "y", "z"),
        monitor=Path("/m"),
        log_format="console",
        nats_user="me",
    )


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_switches(text, value):
    assert load(Settings, GOOD | {"RIDGES_ALLOW": text}).allow is value


def test_an_empty_variable_counts_as_absent():
    assert load(Settings, GOOD | {"RIDGES_NATS_URL": "", "RIDGES_NATS_USER": " "}) == Settings(http_port=8100)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "RIDGES_HTTP_PORT is not set; it is integer, for example RIDGES_HTTP_PORT=1"),
        ({"RIDGES_HTTP_PORT": ""}, "RIDGES_HTTP_PORT is not set"),
        ({"RIDGES_HTTP_PORT": "eighty"}, "RIDGES_HTTP_PORT is 'eighty': Expected `int`, got `str`"),
        (GOOD | {"RIDGES_LOG_FORMAT": "xml"}, "RIDGES_LOG_FORMAT is 'xml'"),
        (GOOD | {"RIDGES_LOG_FORMAT": "xml"}, "it is json | console, for example RIDGES_LOG_FORMAT=json"),
        (GOOD | {"RIDGES_ALLOW": "perhaps"}, "RIDGES_ALLOW=false"),
        (GOOD | {"RIDGES_DRAIN_TIMEOUT_S": "soon"}, "it is number, for example RIDGES_DRAIN_TIMEOUT_S=20"),
    ],
)
def test_an_error_names_the_variable_what_is_wrong_and_an_example(environ, told):
    with pytest.raises(SettingsError) as caught:
        load(Settings, environ)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once():
    with pytest.raises(SettingsError, match=r"RIDGES_HTTP_PORT.*RIDGES_ALLOW|RIDGES_ALLOW.*RIDGES_HTTP_PORT"):
        load(Settings, {"RIDGES_ALLOW": "perhaps"})


def test_what_the_struct_itself_refuses_is_a_settings_error():
    class Checked(msgspec.Struct, frozen=True, kw_only=True):
        slots: int = 1

        def __post_init__(self):
            if self.slots < 1:
                raise ValueError("RIDGES_SLOTS must be at least 1")

    with pytest.raises(SettingsError, match="RIDGES_SLOTS must be at least 1"):
        load(Checked, {"RIDGES_SLOTS": "0"})


def test_describe_gives_variable_type_default_and_meaning_also_of_the_parents():
    described = {row[0]: row[1:] for row in describe(Settings)}
    assert described["RIDGES_NATS_URL"] == ("text", "nats://127.0.0.1:4222", "Where the log is.")
    assert described["RIDGES_HTTP_PORT"] == ("integer", "", "Port of the HTTP API. Over two lines.")
    assert described["RIDGES_NAMES"] == ("comma-separated text", "a,b", "")
    assert described["RIDGES_MONITOR"] == ("path", "", "")
    assert described["RIDGES_ALLOW"] == ("true | false", "false", "")
