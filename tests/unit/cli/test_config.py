"""What the embedded system reads from ridges.toml, and how it says what is wrong there."""

import pytest

from ridges.cli.config import (
    SANDBOX_VARIABLES,
    Config,
    agent_environment,
    project_root,
    provider_key_variables,
    read_config,
    sandbox_environment,
)
from ridges.cli.errors import Exit, UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("RIDGES_ROOT", raising=False)
    return tmp_path


def write(folder, text):
    (folder / "ridges.toml").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_no_file_means_the_defaults(folder):
    assert read_config(folder) == Config()
    assert Config().sandbox.default == "auto"


def test_the_file_is_read(folder):
    write(
        folder, '[sandbox]\ndefault = "bubblewrap"\nslots = 3\n[problems]\ndirs = ["a", "b"]\n[ports]\nledger = 8100\n'
    )
    config = read_config(folder)
    assert (config.sandbox.default, config.sandbox.slots) == ("bubblewrap", 3)
    assert (config.problems.dirs, config.ports.ledger, config.ports.nats) == (("a", "b"), 8100, None)


MISTAKES = {
    "not TOML": ("[sandbox\n", "line 1"),
    "not UTF-8": (b"# \xff\n", "utf-8"),
    "an unknown table": ("[sandboxes]\n", "sandboxes"),
    "an unknown key": ('[sandbox]\ncolour = "red"\n', "colour"),
    "a sandbox that is none": ('[sandbox]\ndefault = "hope"\n', "$.sandbox.default"),
    "text for a number": ('[ports]\nnats = "4222"\n', "$.ports.nats"),
    "no list of folders": ('[problems]\ndirs = "examples"\n', "$.problems.dirs"),
    "one provider instead of a list": ('[provider]\nname = "x"\n', "$.provider"),
    "a slot too few": ("[sandbox]\nslots = 0\n", "$.sandbox.slots"),
    "a port that is none": ("[ports]\nnats = 70000\n", "$.ports.nats"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_a_usage_error_that_names_file_and_place(folder, case):
    text, place = MISTAKES[case]
    write(folder, text)
    with pytest.raises(UsageError) as refused:
        read_config(folder)
    assert refused.value.exit_code is Exit.USAGE
    assert str(folder / "ridges.toml") in str(refused.value)
    assert place in str(refused.value)


def test_the_nearest_folder_upwards_with_a_configuration_is_the_root(folder):
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    assert project_root(deep) == deep
    write(folder, "")
    assert project_root(deep) == folder
    write(folder / "a", "")
    assert project_root(deep) == folder / "a"


def test_the_root_can_be_set(folder, monkeypatch):
    monkeypatch.setenv("RIDGES_ROOT", str(folder / "elsewhere"))
    assert project_root(folder) == folder / "elsewhere"


def test_only_the_keys_of_the_providers_are_handed_on(folder):
    write(folder, '[[provider]]\nkey_env = "A_KEY"\n[[provider]]\n[[provider]]\nkey_env = "B_KEY"\n')
    assert provider_key_variables(read_config(folder)) == {"A_KEY", "B_KEY"}


def test_the_agents_interpreter_is_the_configured_one_else_that_of_the_made_environment(folder):
    assert agent_environment(Config(), folder) is None
    made = folder / ".venv-agent" / "bin" / "python"
    made.parent.mkdir(parents=True)
    made.touch()
    assert agent_environment(Config(), folder) == str(made)
    write(folder, '[sandbox]\nagent_python = "/opt/python"\n')
    assert agent_environment(read_config(folder), folder) == "/opt/python"


def test_the_users_environment_overrides_the_sandbox_section(folder, monkeypatch):
    for name in SANDBOX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    write(folder, '[sandbox]\nslots = 3\nimage = "mine:1"\nagent_python = "/opt/python"\n')
    config = read_config(folder)
    told = {"RIDGES_SLOTS": "3", "RIDGES_AGENT_IMAGE": "mine:1", "RIDGES_AGENT_PYTHON": "/opt/python"}
    assert sandbox_environment(config, folder) == told
    monkeypatch.setenv("RIDGES_AGENT_PYTHON", "/usr/bin/python3")
    monkeypatch.setenv("RIDGES_MIN_FREE_BYTES", "1000")
    told |= {"RIDGES_AGENT_PYTHON": "/usr/bin/python3", "RIDGES_MIN_FREE_BYTES": "1000"}
    assert sandbox_environment(config, folder) == told


def test_the_sandbox_section_sets_slots_memory_runtime_and_ceilings(folder, monkeypatch):
    for name in SANDBOX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    write(
        folder,
        """[sandbox]
evaluation_slots = 2
memory_bytes = 8589934592
min_free_bytes = 0
runtime = "runsc"
max_cpus = 2.5
max_memory_bytes = 4294967296
max_pids = 512
max_disk_bytes = 2147483648
max_log_chars = 100000
max_timeout_s = 3600
allowed_images = ["ridges-*", "mine:*"]
allowed_runtimes = ["kata"]
network = "internal"
allowed_networks = ["socket"]
""",
    )
    told = sandbox_environment(read_config(folder), folder)
    assert told == {
        "RIDGES_EVALUATION_SLOTS": "2",
        "RIDGES_MEMORY_BYTES": "8589934592",
        "RIDGES_MIN_FREE_BYTES": "0",
        "RIDGES_DOCKER_RUNTIME": "runsc",
        "RIDGES_MAX_CPUS": "2.5",
        "RIDGES_MAX_MEMORY_BYTES": "4294967296",
        "RIDGES_MAX_PIDS": "512",
        "RIDGES_MAX_DISK_BYTES": "2147483648",
        "RIDGES_MAX_LOG_CHARS": "100000",
        "RIDGES_MAX_TIMEOUT_S": "3600.0",
        "RIDGES_ALLOWED_IMAGES": "ridges-*,mine:*",
        "RIDGES_ALLOWED_RUNTIMES": "kata",
        "RIDGES_DOCKER_NETWORK": "internal",
        "RIDGES_ALLOWED_NETWORKS": "socket",
    }
    assert told.keys() <= set(SANDBOX_VARIABLES)


def test_every_variable_that_is_forwarded_is_a_setting_of_the_sandbox_manager():
    from ridges.sandbox_manager.settings import ManagerSettings

    assert {name.removeprefix("RIDGES_").lower() for name in SANDBOX_VARIABLES} <= set(
        ManagerSettings.__struct_fields__
    )
