"""Who may do what at the NATS server, as its configuration: ``python -m ridges.chassis.jetstream.permissions``.

Written from ``contracts.flows``: each service publishes its own event types and touches its own durable consumers;
nobody but ``admin`` changes a stream. Passwords come from the server's environment (``password_variable``).

Source: NATS server configuration, "authorization"; JetStream wire API (subjects of requests, acknowledgements, flow
control). An allow list lets nothing else through, and a deny list wins over it.
"""

import sys
from pathlib import Path
from typing import Literal

import msgspec

from ridges.chassis.jetstream.inboxes import RELAY, SHARED_INBOX, inbox_prefix
from ridges.contracts.events import type_name
from ridges.contracts.flows import FLOWS
from ridges.contracts.subjects import (
    ALL_EVENTS,
    ALL_INGRESS,
    EVENTS_STREAM,
    INGRESS_STREAM,
    PARKED_STREAM,
    type_filter,
)

LogOfRecord = Literal["jetstream", "kurrentdb"]

ADMIN, CLIENT = "admin", "client"
INBOXES = f"{SHARED_INBOX}.>"
INGRESS_QUEUE = "ledger"
"""The durable consumer of the INGRESS work queue."""
READABLE = (EVENTS_STREAM, PARKED_STREAM)
QUEUES = tuple(queue for flow in FLOWS.values() for queue in flow.queues)

CONTAINER_CONFIGS: dict[LogOfRecord, str] = {"jetstream": "nats.conf", "kurrentdb": "nats-kurrentdb.conf"}
"""The files in ``infra/``."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """One user of the server. No permissions = everything."""

    name: str
    publish: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


def password_variable(user: str) -> str:
    """The environment variable of nats-server that holds a user's password."""
    return f"RIDGES_NATS_{user.replace('-', '_').upper()}_PASSWORD"


def users(log_of_record: LogOfRecord = "jetstream") -> tuple[User, ...]:
    """All users. Where KurrentDB is the log, the relay alone writes events to the server: its stream is the mirror."""
    services = [_service(name, writes=log_of_record == "jetstream") for name in FLOWS]
    relay = [_relay()] if log_of_record == "kurrentdb" else []
    return (User(name=ADMIN), *services, *relay, _client())


def nats_conf(
    *,
    listen: str,
    monitor: str,
    store_dir: str,
    log_of_record: LogOfRecord = "jetstream",
    anonymous: bool = False,
    comment: str = "",
) -> str:
    """The configuration of the log's server. ``anonymous``: who names no user is ``client``."""
    return "".join(
        f"{line}\n"
        for line in (
            "# Written by ridges.chassis.jetstream.permissions from contracts.flows.",
            *([f"# {comment}"] if comment else []),
            f"listen: {_quoted(listen)}",
            f"http: {_quoted(monitor)}",
            "max_payload: 1MB",
            "",
            "jetstream {",
            f"  store_dir: {_quoted(store_dir)}",
            '  # Without it an acknowledgement only means "in the page cache": a power cut would lose it.',
            "  sync_interval: always",
            "  # The disk is the limit: streams reserve their largest sizes, for which a small one has no room.",
            "  max_file_store: 1TB",
            "}",
            "",
            *([f"no_auth_user: {CLIENT}"] if anonymous else []),
            "authorization {",
            "  users = [",
            *(line for user in users(log_of_record) for line in _described(user)),
            "  ]",
            "}",
        )
    )


def container_conf(log_of_record: LogOfRecord) -> str:
    """What stands in ``infra/`` and in the image ``ridges-nats``."""
    return nats_conf(
        listen="0.0.0.0:4222",
        monitor="0.0.0.0:8222",
        store_dir="/var/lib/nats",
        log_of_record=log_of_record,
        comment="Services check `sync_always` at start and refuse to run without it. Passwords: infra/secrets.sh.",
    )


def _service(name: str, *, writes: bool) -> User:
    flow = FLOWS[name]
    own, foreign = flow.queues, [queue for queue in QUEUES if queue not in flow.queues]
    allowed = [*_reading(), "$JS.API.CONSUMER.CREATE.EVENTS.*"]
    if writes:
        allowed += [type_filter(type_name(cls)) for cls in flow.appends]
    for queue in own:
        allowed += [f"park.{queue}.>", f"$JS.ACK.{EVENTS_STREAM}.{queue}.>"]
    if name == INGRESS_QUEUE:
        allowed += _emptying_the_ingress()
    return User(name=name, publish=tuple(allowed), deny=_durables(foreign), subscribe=(f"{inbox_prefix(name)}.>",))


def _reading() -> list[str]:
    """Streams and consumers that are read; nothing that changes a stream."""
    return [
        *(f"$JS.API.STREAM.INFO.{stream}" for stream in READABLE),
        *(f"$JS.API.DIRECT.GET.{stream}" for stream in READABLE),
        f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.*",
        f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.*",
    ]


def _durables(queues: list[str]) -> tuple[str, ...]:
    """All that can be done to these durable consumers."""
    return tuple(
        subject
        for queue in queues
        for subject in (
            f"$JS.API.CONSUMER.CREATE.{EVENTS_STREAM}.{queue}",
            f"$JS.API.CONSUMER.CREATE.{EVENTS_STREAM}.{queue}.>",
            f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.{queue}",
            f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{queue}",
        )
    )


def _emptying_the_ingress() -> list[str]:
    """Its one consumer, and the answers for whoever names an inbox in ``Ridges-Reply-To``."""
    consumer = f"{INGRESS_STREAM}.{INGRESS_QUEUE}"
    return [
        f"$JS.API.CONSUMER.INFO.{consumer}",
        f"$JS.API.CONSUMER.CREATE.{consumer}",
        f"$JS.API.CONSUMER.CREATE.{consumer}.{ALL_INGRESS}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{consumer}",
        f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
        f"$JS.ACK.{consumer}.>",
        INBOXES,
    ]


def _relay() -> User:
    return User(name=RELAY, publish=(*_reading()[:4], ALL_EVENTS), subscribe=(f"{inbox_prefix(RELAY)}.>",))


def _client() -> User:
    """Asks for runs, and reads the log as any NATS client does (also ``nats sub``, and with push consumers).

    Not with the old form of the request, which names the consumer in its body only and so could change a service's.
    """
    return User(
        name=CLIENT,
        publish=(
            ALL_INGRESS,
            *_reading(),
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            f"$JS.API.CONSUMER.CREATE.{EVENTS_STREAM}.>",
            f"$JS.API.CONSUMER.INFO.{EVENTS_STREAM}.*",
            f"$JS.FC.{EVENTS_STREAM}.>",
            f"$JS.ACK.{EVENTS_STREAM}.>",
        ),
        deny=(*_durables(list(QUEUES)), *(f"$JS.ACK.{EVENTS_STREAM}.{queue}.>" for queue in QUEUES)),
        subscribe=(INBOXES, ALL_EVENTS),
    )


def _described(user: User) -> list[str]:
    head = f"    {{ user: {user.name}, password: ${password_variable(user.name)}"
    if not user.publish:
        return [head + " }"]
    denied = [f", deny: {_listed(user.deny)}"] if user.deny else []
    return [
        head + ", permissions: {",
        f"        publish: {{ allow: {_listed(user.publish)}{''.join(denied)} }}",
        f"        subscribe: {{ allow: {_listed(user.subscribe)} }}",
        "    } }",
    ]


def _listed(subjects: tuple[str, ...]) -> str:
    return "[\n" + "".join(f"          {_quoted(subject)}\n" for subject in subjects) + "        ]"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def main(folder: str = "infra") -> None:
    """Write the files."""
    for log_of_record, name in CONTAINER_CONFIGS.items():
        Path(folder, name).write_text(container_conf(log_of_record), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
