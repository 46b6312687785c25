"""The compose file and the services agree on names and on what may not be left open."""

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from ridges.chassis.jetstream.permissions import CONTAINER_CONFIGS, password_variable, users
from ridges.chassis.settings import load, variable_of

INFRA = Path(__file__).parents[3] / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES = ("ledger", "gateway", "sandbox-manager", "evaluator")


def settings_of(service: str) -> type[msgspec.Struct]:
    module = importlib.import_module(f"ridges.{service.replace('-', '_')}.settings")
    found = [
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, msgspec.Struct) and member.__module__ == module.__name__
    ]
    return next(struct for struct in found if struct.__name__.endswith("Settings"))


def environment_of(service: str) -> dict[str, str]:
    """As compose would resolve it, with placeholders for what the operator must give."""
    given = COMPOSE["services"][service]["environment"]
    return {
        name: re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)\}", lambda m: m[1] or "ab" * 32, text)
        for name, text in given.items()
    }


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_a_setting(service: str) -> None:
    """A misspelt variable would be ignored in silence."""
    known = {variable_of(field.name) for field in msgspec.structs.fields(settings_of(service))}
    assert set(environment_of(service)) - known == set()


@pytest.mark.parametrize("service", SERVICES)
def test_the_service_accepts_its_environment(service: str) -> None:
    """Nothing that a service needs is missing, and every value has the right form."""
    settings = load(settings_of(service), environment_of(service))
    assert settings.http_host == "0.0.0.0"


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_hardened(service: str) -> None:
    """Read-only, no capabilities, no new privileges; the engine's socket for the sandbox-manager alone."""
    declared = COMPOSE["services"][service]
    assert declared["read_only"] is True
    assert declared["cap_drop"] == ["ALL"]
    assert declared["security_opt"] == ["no-new-privileges:true"]
    assert any("docker.sock" in volume for volume in declared["volumes"]) == (service == "sandbox-manager")


def test_only_the_ledger_is_reachable_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"ledger": ["127.0.0.1:8100:8100"]}


def test_each_service_logs_in_as_itself_and_nats_knows_every_password() -> None:
    """Who may publish what hangs on the user."""
    given = COMPOSE["services"]["nats"]["environment"]
    assert set(given) == {password_variable(user.name) for user in users()}
    for name in SERVICES:
        environment = COMPOSE["services"][name]["environment"]
        assert environment["RIDGES_NATS_USER"] == name
        assert password_variable(name) in environment["RIDGES_NATS_PASSWORD"]
    assert COMPOSE["services"]["migrate"]["environment"]["RIDGES_NATS_USER"] == "admin"


def test_with_kurrentdb_every_service_is_told_and_the_relay_has_its_user() -> None:
    added = yaml.safe_load((INFRA / "compose.kurrentdb.yaml").read_text())["services"]
    for name in (*SERVICES, "migrate"):
        assert added[name]["environment"]["RIDGES_EVENT_STORE_URL"] == "kurrentdb://kurrentdb:2113?Tls=false"
    for name in SERVICES:
        known = {variable_of(field.name) for field in msgspec.structs.fields(settings_of(name))}
        assert set(added[name]["environment"]) - known == set()
    assert added["nats"]["command"][-1] == f"/etc/{CONTAINER_CONFIGS['kurrentdb']}"
    passwords = {**COMPOSE["services"]["nats"]["environment"], **added["nats"]["environment"]}
    assert set(passwords) == {password_variable(user.name) for user in users("kurrentdb")}


def test_one_command_makes_every_secret_once(tmp_path: Path) -> None:
    """What compose asks for stands in the file, and a second call keeps it."""
    script = tmp_path / "infra" / "secrets.sh"
    script.parent.mkdir()
    shutil.copy(INFRA / "secrets.sh", script)
    subprocess.run([script], check=True, env=os.environ | {"RIDGES_ENGINE_SOCKET": str(tmp_path)}, timeout=30)
    made = (script.parent / ".env").read_text()
    assert (script.parent / ".env").stat().st_mode & 0o077 == 0
    files = (INFRA / "compose.yaml", INFRA / "compose.kurrentdb.yaml")
    asked = {name for file in files for name in re.findall(r"\$\{(\w+):\?", file.read_text())}
    assert dict(line.split("=") for line in made.split()).keys() == asked
    assert subprocess.run([script], check=False, capture_output=True, timeout=30).returncode != 0
    assert (script.parent / ".env").read_text() == made


def test_the_log_is_synced_before_it_is_acknowledged() -> None:
    assert re.search(r"^\s*sync_interval: always$", (INFRA / "nats.conf").read_text(), re.MULTILINE)
