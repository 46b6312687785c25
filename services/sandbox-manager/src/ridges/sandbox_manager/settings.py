"""Settings of the sandbox-manager: each field is a variable ``RIDGES_<NAME>``."""

import socket
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ridges.sandbox_manager.proxy_config import upstream

MIN_KEY_BYTES = 32
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Slots = Annotated[int, Meta(ge=1, le=256)]


class ManagerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in ``app``."""

    run_token_key: str
    """Key that signs run tokens, the gateway has the same: at least 64 hex digits (``openssl rand -hex 32``)."""
    state_dir: Path
    """Directory of this manager alone: its lock, its installation id, the sockets of its runs."""
    blobs_url: str
    """The blob store that all services share: ``file:///directory`` or ``s3://bucket/prefix``."""
    gateway_url: str = "http://127.0.0.1:8101"
    """Where the runs' proxies find the gateway: ``http://host:port`` or ``unix:///path``."""
    nats_url: str = "nats://127.0.0.1:4222"
    """The NATS server that holds the event log."""
    nats_monitor_url: str | None = None
    """Its monitoring address, to check at start that it syncs every write."""
    nats_user: str | None = None
    """NATS user."""
    nats_password: str | None = None
    """NATS password."""
    allow_lossy_log: bool = False
    """Run although the server may lose acknowledged events at a power cut."""
    http_host: str = "127.0.0.1"
    """Address of /livez, /readyz, /metrics."""
    http_port: int = 8102
    """Port of /livez, /readyz, /metrics."""
    log_format: Literal["json", "console"] = "json"
    """Form of the log on stderr."""
    log_level: str = "info"
    """debug, info, warning or error."""
    drain_timeout_s: float = 20.0
    """After SIGTERM: how long runs may still end by themselves before they are given back to the queue."""
    manager_name: Name = msgspec.field(default_factory=socket.gethostname)
    """Name in AgentStarted and EvaluationStarted; the default is the host's name."""
    slots: Slots = 4
    """Agents at once."""
    evaluation_slots: Slots = 2
    """Evaluations at once, beside the agents: they never wait behind agents."""
    sandbox: Literal["auto", "docker", "bubblewrap", "process"] = "auto"
    """For runs that ask for ``auto``; ``auto``: docker if an engine answers and has the image, else bubblewrap."""
    allow_process: bool = False
    """Allow the sandbox ``process``, which isolates nothing: only for agents you wrote yourself."""
    agent_image: str = "ridges-agent:latest"
    """Docker image of sandboxes whose run names none. Never pulled."""
    agent_python: Path | None = None
    """Interpreter in bubblewrap and process sandboxes, with the packages that agents expect; default: our own."""
    docker_url: str | None = None
    """The Docker Engine, e.g. ``unix:///var/run/docker.sock``; default: DOCKER_HOST, then that socket."""
    docker_runtime: str | None = None
    """OCI runtime of the sandboxes: runc, runsc, kata; default: the engine's."""
    host_state_dir: Path | None = None
    """Path of ``state_dir`` as the Docker Engine sees it, when this service itself runs in a container."""
    max_attempts: Annotated[int, Meta(ge=1, le=20)] = 3
    """How often a run (or an evaluation) whose sandbox or manager was lost is started in all."""
    sandbox_wait_s: Annotated[float, Meta(ge=0)] = 30.0
    """How long a run waits for a sandbox technology that is not available before it ends with an error."""
    ack_wait_s: Annotated[float, Meta(ge=1)] = 30.0
    """A manager silent for so long has lost its runs: another one starts them again."""
    sweep_interval_s: Annotated[float, Meta(ge=1)] = 60.0
    """How often leftovers are looked for."""

    def __post_init__(self) -> None:
        upstream(self.gateway_url)
        try:
            key = bytes.fromhex(self.run_token_key)
        except ValueError:
            key = b""
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(
                f"RIDGES_RUN_TOKEN_KEY must be at least {2 * MIN_KEY_BYTES} hex digits; make one: openssl rand -hex 32"
            )

    @property
    def token_key(self) -> bytes:
        return bytes.fromhex(self.run_token_key)
