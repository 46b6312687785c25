"""Settings of the evaluator: each field is a variable ``RIDGES_<NAME>``."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class EvaluatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in ``app``."""

    blobs_url: str
    """The blob store that all services share: ``file:///directory`` or ``s3://bucket/prefix``."""
    problems_dirs: tuple[Path, ...] = (Path("examples/problems"),)
    """Folders that hold problem folders, comma-separated."""
    rescan_s: Annotated[float, Meta(ge=1)] = 30.0
    """How often the problem folders are looked at for changes; SIGHUP does it at once."""
    evaluation_slots: Annotated[int, Meta(ge=1, le=64)] = 4
    """Patches vetted (and, beside them, reports judged) at once."""
    ack_wait_s: Annotated[float, Meta(ge=1)] = 10.0
    """An evaluator silent for so long loses what it had in hand to another (or to itself, started again)."""
    max_patch_bytes: Annotated[int, Meta(ge=1)] = 5 * 1024 * 1024
    """A larger patch is refused."""
    max_patch_files: Annotated[int, Meta(ge=1)] = 500
    """A patch that touches more files is refused."""
    check_wait_s: Annotated[float, Meta(ge=1)] = 120.0
    """How long the check of a problem waits for a free sandbox, beside the tests' own time."""
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
    """Address of the HTTP API."""
    http_port: int = 8103
    """Port of the HTTP API."""
    log_format: Literal["json", "console"] = "json"
    """Form of the log on stderr."""
    log_level: str = "info"
    """debug, info, warning or error."""
    drain_timeout_s: float = 20.0
    """After SIGTERM: how long patches and reports in hand may still take."""
