"""Settings of the ledger, read from ``RIDGES_*`` variables."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    nats_url: str = "nats://127.0.0.1:4222"
    """The NATS server that holds the log and the ingress."""
    nats_monitor_url: str | None = None
    """Its monitoring address (http://host:8222), where the server proves that it syncs every write."""
    nats_user: str | None = None
    """User at the NATS server."""
    nats_password: str | None = None
    """Password of that user."""
    nats_admin_user: str | None = None
    """User that may write any event, for `ridges ledger restore` alone; where the server knows users."""
    nats_admin_password: str | None = None
    """Password of that user."""
    nats_relay_user: str | None = None
    """User that mirrors KurrentDB's events to NATS; default: the ledger's own user."""
    nats_relay_password: str | None = None
    """Password of that user."""
    event_store_url: str | None = None
    """KurrentDB, where it is the log of record (kurrentdb://…); NATS then mirrors it. Default: NATS is the log."""
    log_epoch: str | None = None
    """The epoch that the log must have: another log, or one that was started anew, is refused. Default: any."""
    allow_lossy_log: bool = False
    """Accept a server that may lose acknowledged events in a power cut."""
    blobs_url: str
    """The blob store that all services share: file:///directory or s3://bucket/prefix."""
    state_dir: Path
    """Directory of the projections (which can be deleted: they are built again) and of the refused requests."""
    http_host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address needs an API token."""
    http_port: Annotated[int, Meta(ge=0, le=65_535)] = 8100
    """Port to listen on."""
    api_token: Annotated[str, Meta(min_length=16)] | None = None
    """Role admin. Requests must carry a token: `Authorization: Bearer <token>`, or as a browser log-in's password."""
    api_run_token: Annotated[str, Meta(min_length=16)] | None = None
    """Role run: may read, ask for runs, cancel and upload, but not administrate."""
    api_read_token: Annotated[str, Meta(min_length=16)] | None = None
    """Role read: may only read."""
    settle_grace_s: Annotated[float, Meta(ge=0)] = 60.0
    """How long after a run's end a reservation without an outcome is settled with its maximum."""
    archive_every_s: Annotated[float, Meta(gt=0)] | None = None
    """Seal what is new into the archive this often; default: only when asked (`ridges ledger archive`)."""
    log_format: Literal["json", "console"] = "json"
    """Form of the log on stderr."""
    log_level: str = "info"
    """debug, info, warning or error."""
    drain_timeout_s: Annotated[float, Meta(ge=0)] = 20.0
    """Time for what is in progress after SIGTERM."""

    def __post_init__(self) -> None:
        tokens = [token for token in (self.api_token, self.api_run_token, self.api_read_token) if token is not None]
        if len(set(tokens)) != len(tokens):
            raise ValueError(
                "RIDGES_API_TOKEN, RIDGES_API_RUN_TOKEN and RIDGES_API_READ_TOKEN must differ: each stands for a role"
            )
        if self.api_token is None and tokens:
            raise ValueError("RIDGES_API_TOKEN is not set but another token is; without it nobody would be the admin")
        if self.api_token is None and not is_loopback(self.http_host):
            raise ValueError(
                f"RIDGES_HTTP_HOST is {self.http_host!r}, which others can reach, but RIDGES_API_TOKEN is not set; "
                "set it to a secret, for example RIDGES_API_TOKEN=$(openssl rand -hex 32), or listen on 127.0.0.1"
            )


class MigrateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log is and where it goes: for `ridges ledger migrate` alone."""

    nats_url: str = "nats://127.0.0.1:4222"
    """The NATS server that the services use now."""
    nats_user: str | None = None
    """User at that server."""
    nats_password: str | None = None
    """Password of that user."""
    nats_admin_user: str | None = None
    """User that may change its streams; where the server knows users."""
    nats_admin_password: str | None = None
    """Password of that user."""
    event_store_url: str | None = None
    """KurrentDB, where it is the log of record now."""
    migrate_to: str
    """The new place: nats://host:4222 or kurrentdb://host:2113."""
    target_nats_user: str | None = None
    """User that may change streams at the new NATS server."""
    target_nats_password: str | None = None
    """Password of that user."""
    target_nats_monitor_url: str | None = None
    """Monitoring address of the new NATS server, where it proves that it syncs every write."""
    target_stream_replicas: int | None = None
    """Copies of each stream in the new cluster; default: as its streams have, 1 where they are new."""
    allow_lossy_log: bool = False
    """Accept a new server that may lose acknowledged events in a power cut."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
