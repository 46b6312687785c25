"""Settings of the sandbox-manager: each field is a variable ``RIDGES_<NAME>``."""

import socket
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ridges.contracts.limits import MIB, Network
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
    event_store_url: str | None = None
    """KurrentDB, where it is the log of record (kurrentdb://…); NATS then mirrors it. Default: NATS is the log."""
    log_epoch: str | None = None
    """The epoch that the log must have: another log, or one that was started anew, is refused. Default: any."""
    allow_lossy_log: bool = False
    """Run although the server may lose acknowledged events at a power cut."""
    http_host: str = "127.0.0.1"
    """Address of /livez, /readyz, /metrics and /v1/sandboxes."""
    http_port: int = 8102
    """Port of the same."""
    api_token: Annotated[str, Meta(min_length=16)] | None = None
    """Readers of /v1/sandboxes (live logs) must show it; without one they must be on this machine."""
    log_format: Literal["json", "console"] = "json"
    """Form of the log on stderr."""
    log_level: str = "info"
    """debug, info, warning or error."""
    drain_timeout_s: float = 20.0
    """After SIGTERM: how long runs may still end by themselves before they are given back to the queue."""
    manager_name: Name = msgspec.field(default_factory=socket.gethostname)
    """Name in AgentStarted and EvaluationStarted; the default is the host's name."""
    slots: Slots | None = None
    """Agents at once; default: two per core, fewer where memory_bytes holds fewer of the ordinary 2 GiB sandboxes."""
    evaluation_slots: Slots | None = None
    """Evaluations at once, beside the agents: they never wait behind agents. Default: one per core."""
    memory_bytes: Annotated[int, Meta(ge=64 * MIB)] | None = None
    """What the agents' memory limits may add up to; default: 80 % of the machine's less the evaluations' share."""
    claim_ahead: Annotated[int, Meta(ge=0, le=10_000)] = 1_000
    """Runs taken from the queue that may wait here for a slot: among them priority and fair shares decide."""
    claim_s: Annotated[float, Meta(gt=0)] = 30.0
    """How long one of them may wait before it is given back, perhaps to a manager that is idle."""
    min_free_bytes: Annotated[int, Meta(ge=0)] = 512 * MIB
    """With less left on the disk of state_dir or blobs no sandbox is started."""
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
    docker_network: Network = "socket"
    """Network mode of Docker sandboxes whose run names none: ``socket``, or ``internal`` (a relay beside each)."""
    host_state_dir: Path | None = None
    """Path of ``state_dir`` as the Docker Engine sees it, when this service itself runs in a container."""
    max_cpus: Annotated[float, Meta(gt=0)] | None = None
    """Ceiling: a run or problem that asks for more processors in one sandbox is refused. Default: none."""
    max_memory_bytes: Annotated[int, Meta(ge=64 * MIB)] | None = None
    """Ceiling of one sandbox's memory."""
    max_pids: Annotated[int, Meta(ge=8)] | None = None
    """Ceiling of one sandbox's processes and threads."""
    max_disk_bytes: Annotated[int, Meta(ge=MIB)] | None = None
    """Ceiling of one sandbox's working directory."""
    max_log_chars: Annotated[int, Meta(ge=0)] | None = None
    """Ceiling of what is kept of one sandbox's log."""
    max_timeout_s: Annotated[float, Meta(ge=1)] | None = None
    """Ceiling of one sandbox's time, agents' and evaluations'."""
    allowed_images: tuple[str, ...] = ()
    """Patterns of images that runs and problems may name (``ridges-agent:*``); default: every image of the engine."""
    allowed_runtimes: tuple[str, ...] = ()
    """OCI runtimes that runs may ask for besides docker_runtime; default: none."""
    allowed_networks: tuple[Network, ...] = ()
    """Network modes that runs and problems may ask for besides docker_network; default: both."""
    max_attempts: Annotated[int, Meta(ge=1, le=20)] = 3
    """How often a run (or an evaluation) whose sandbox or manager was lost is started in all."""
    partial_patch_interval_s: Annotated[float, Meta(ge=0)] = 30.0
    """How often the changes of an agent at work are copied here, for the case that its sandbox is lost; 0 = never."""
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
