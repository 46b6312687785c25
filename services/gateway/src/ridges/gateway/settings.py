"""Settings of the gateway, read once from ``RIDGES_*``."""

import socket
from pathlib import Path
from typing import Literal

import msgspec


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    config: Path
    """The file with the providers and models, usually ridges.toml."""
    run_token_key: str
    """At least 32 bytes in hex, shared with the sandbox-manager only: it signs the run tokens."""
    blobs_url: str
    """Where request and reply contents go: file:///dir or s3://bucket/prefix."""
    nats_url: str = "nats://127.0.0.1:4222"
    """The event log."""
    nats_monitor_url: str | None = None
    """NATS monitoring address, to check that acknowledged events are on disk."""
    nats_user: str | None = None
    """User for NATS."""
    nats_password: str | None = None
    """Password for NATS."""
    event_store_url: str | None = None
    """KurrentDB, where it is the log of record (kurrentdb://…); NATS then mirrors it. Default: NATS is the log."""
    log_epoch: str | None = None
    """The epoch that the log must have: another log, or one that was started anew, is refused. Default: any."""
    allow_lossy_log: bool = False
    """Run although the log may lose acknowledged events in a power cut."""
    http_host: str = "127.0.0.1"
    """Address to listen on."""
    http_port: int = 8101
    """Port to listen on."""
    read_timeout_s: float = 60.0
    """Longest time in which a request must arrive."""
    contents: Literal["full", "none"] = "full"
    """Whether request and reply contents are kept as blobs."""
    call_deadline_s: float = 600.0
    """Longest time of one call over all its providers."""
    stream_idle_s: float = 60.0
    """A stream that is silent for so long counts as cut."""
    budget_wait_s: float = 30.0
    """How long a call waits for other calls of its run to free reserved budget before it is cut down or refused."""
    log_wait_s: float = 0.0
    """How long a call that begins while the event log is away waits for it; 0 = it is refused at once."""
    hedge_after_s: float | None = None
    """A call without an answer (a stream: without a first event) for so long is asked of a second provider too."""
    gateway_name: str = ""
    """Of this gateway among its replicas, the same after a restart. Default: host name and port."""
    choice_seed: int | None = None
    """Makes the draw among providers repeatable."""
    otel: bool = False
    """Send a span for every call to OpenTelemetry; needs the extra otel and is configured by OTEL_* variables."""
    known_runs: int = 500
    """Runs kept in memory; others are read from the log again when they call."""
    drain_timeout_s: float = 20.0
    """How long calls in flight may take to end after SIGTERM."""
    log_format: Literal["json", "console"] = "json"
    """Format of the log lines on stderr."""
    log_level: str = "info"
    """debug, info, warning or error."""

    def __post_init__(self) -> None:
        try:
            key = bytes.fromhex(self.run_token_key)
        except ValueError:
            raise ValueError("RIDGES_RUN_TOKEN_KEY is not hex; make one with: openssl rand -hex 32") from None
        if len(key) < 32:
            raise ValueError("RIDGES_RUN_TOKEN_KEY is shorter than 32 bytes; make one with: openssl rand -hex 32")
        for name in ("call_deadline_s", "stream_idle_s", "hedge_after_s", "read_timeout_s"):
            if (seconds := getattr(self, name)) is not None and seconds <= 0:
                raise ValueError(f"RIDGES_{name.upper()} must be more than 0")

    @property
    def name(self) -> str:
        return self.gateway_name or f"{socket.gethostname()}:{self.http_port}"

    @property
    def token_key(self) -> bytes:
        return bytes.fromhex(self.run_token_key)
