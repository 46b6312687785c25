"""Settings: what is wrong is named."""

import pytest

from ridges.chassis.settings import SettingsError, describe, load
from ridges.sandbox_manager.errors import SettingRefused, StateDirTaken
from ridges.sandbox_manager.proxy import MAX_SOCKET_PATH, make_runtime_dir
from ridges.sandbox_manager.settings import ManagerSettings
from ridges.sandbox_manager.state_dir import own_state_dir

GOOD = {"RIDGES_RUN_TOKEN_KEY": "5a" * 32, "RIDGES_STATE_DIR": "/x/state", "RIDGES_BLOBS_URL": "file:///x/blobs"}


def test_three_variables_are_enough():
    chosen = load(ManagerSettings, GOOD)
    assert chosen.token_key == b"Z" * 32
    assert chosen.manager_name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"RIDGES_RUN_TOKEN_KEY": ""}, "RIDGES_RUN_TOKEN_KEY"),
        ({"RIDGES_RUN_TOKEN_KEY": "abc"}, "RIDGES_RUN_TOKEN_KEY"),
        ({"RIDGES_RUN_TOKEN_KEY": "zz" * 32}, "openssl rand -hex 32"),
        ({"RIDGES_STATE_DIR": ""}, "RIDGES_STATE_DIR"),
        ({"RIDGES_GATEWAY_URL": "https://gateway/x"}, "gateway URL"),
        ({"RIDGES_GATEWAY_URL": "http://x/;}evil"}, "gateway URL"),
        ({"RIDGES_SLOTS": "0"}, "RIDGES_SLOTS"),
        ({"RIDGES_SANDBOX": "podman"}, "RIDGES_SANDBOX"),
    ],
)
def test_a_wrong_setting_is_named(change, named):
    with pytest.raises(SettingsError, match=named):
        load(ManagerSettings, GOOD | change)


def test_every_setting_is_explained():
    assert [name for name, _, _, meaning in describe(ManagerSettings) if not meaning] == []


def test_two_managers_cannot_share_a_state_directory(tmp_path):
    with own_state_dir(tmp_path / "a b") as first:
        second_try = own_state_dir(tmp_path / "a b")
        with pytest.raises(StateDirTaken, match="another sandbox-manager"):
            second_try.__enter__()
    with own_state_dir(tmp_path / "a b") as second:
        assert first == second


def test_a_state_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingRefused, match="RIDGES_STATE_DIR"), own_state_dir(tmp_path / "file" / "x"):
        pass


def test_sockets_fit_whatever_the_state_directory_is_called(tmp_path):
    places = []
    for name in ("s", "with a space", "long" * 40):
        place = make_runtime_dir(tmp_path / name, "01890000-0000-7000-8000-00000000abcd")
        assert len(str(place / "0123456789ab" / "s" / "proxy.sock")) <= MAX_SOCKET_PATH
        assert " " not in str(place)
        assert place == make_runtime_dir(tmp_path / name, "01890000-0000-7000-8000-00000000abcd")
        places.append(place)
    for place in set(places):
        place.rmdir()


def test_mounted_state_directories_keep_their_sockets_or_refuse(tmp_path):
    with pytest.raises(SettingRefused, match="too long"):
        make_runtime_dir(tmp_path / ("long" * 40), "o", only_state_dir=True)
