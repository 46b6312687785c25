"""Generate the documents of what goes over NATS: ``python -m ridges.contracts.schema [directory]``.

``events.schema.json`` (JSON Schema) describes every event, ``asyncapi.json`` (AsyncAPI 3.0) the subjects and users.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from ridges.contracts.events import EVENT_TYPES, Event, type_name
from ridges.contracts.flows import FLOWS
from ridges.contracts.parked import Parked
from ridges.contracts.requests import CancelRun, RequestAnswer, RequestRun
from ridges.contracts.subjects import (
    EVENT_ID_HEADER,
    INGRESS_RUN_CANCELLED,
    INGRESS_RUN_REQUESTED,
    event_subject,
    parked_subject,
)

FOLDER = Path(__file__).parents[3] / "schema"
INGRESS = {INGRESS_RUN_REQUESTED: RequestRun, INGRESS_RUN_CANCELLED: CancelRun}
REPLY_HEADER = "Ridges-Reply-To"

Json = dict[str, Any]


def events_schema() -> Json:
    """JSON Schema of one message of the log."""
    references, definitions = msgspec.json.schema_components(EVENT_TYPES.values(), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ridges event",
        "description": "One message on ev.<run id>.<type>. Readers must tolerate unknown fields.",
        "oneOf": list(references),
        "$defs": definitions,
    }


def asyncapi() -> Json:
    """The AsyncAPI document: channels, messages, and what each service does with them."""
    payloads: list[type] = [*EVENT_TYPES.values(), RequestRun, CancelRun, RequestAnswer, Parked]
    _, schemas = msgspec.json.schema_components(payloads, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Ridges",
            "version": "1",
            "description": "Everything that happened is an event in the JetStream stream EVENTS. "
            "Requests of users come in on the stream INGRESS, what queues gave up on goes to the stream PARKED.",
        },
        "defaultContentType": "application/json",
        "channels": _channels(),
        "operations": _operations(),
        "components": {"schemas": schemas, "messages": {cls.__name__: _message(cls) for cls in payloads}},
    }


def documents() -> dict[str, bytes]:
    """File name -> content."""
    generated = {"events.schema.json": events_schema(), "asyncapi.json": asyncapi()}
    return {
        name: msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        for name, document in generated.items()
    }


def _message(cls: type) -> Json:
    message: Json = {"name": cls.__name__, "payload": {"$ref": f"#/components/schemas/{cls.__name__}"}}
    if cls.__doc__:
        message["summary"] = cls.__doc__.strip().partition("\n")[0]
    if issubclass(cls, Event):
        message["headers"] = {
            "type": "object",
            "properties": {EVENT_ID_HEADER: {"type": "string", "description": "the event's id"}},
            "required": [EVENT_ID_HEADER],
        }
    return message


def _channels() -> Json:
    run_id = {"run_id": {"description": "the run's UUID, or problem-<problem id>"}}
    channels: Json = {name: _channel(event_subject("{run_id}", name), name, run_id) for name in EVENT_TYPES}
    for subject, cls in INGRESS.items():
        channels[_ingress_channel(cls)] = _channel(subject, cls.__name__, {})
    channels["answers"] = {
        "address": None,
        "description": f"The subject that the request names in its header {REPLY_HEADER}.",
        "messages": {RequestAnswer.__name__: {"$ref": f"#/components/messages/{RequestAnswer.__name__}"}},
    }
    names = {"queue": {"description": "the queue's name"}, "type": {"description": "the event's type"}}
    channels["parked"] = _channel(parked_subject("{queue}", "{type}"), Parked.__name__, names)
    return channels


def _channel(address: str, message: str, parameters: Json) -> Json:
    channel: Json = {"address": address, "messages": {message: {"$ref": f"#/components/messages/{message}"}}}
    return channel | ({"parameters": parameters} if parameters else {})


def _operations() -> Json:
    operations: Json = {}
    for service, flow in FLOWS.items():
        for event in flow.appends:
            operations[f"{service}.appends.{type_name(event)}"] = _operation("send", service, type_name(event))
        for event in flow.consumes:
            operations[f"{service}.consumes.{type_name(event)}"] = _operation("receive", service, type_name(event))
        operations[f"{service}.parks"] = _operation("send", service, "parked", Parked.__name__)
    for cls in INGRESS.values():
        channel = _ingress_channel(cls)
        answered = _operation("receive", "ledger", channel, cls.__name__)
        answered["reply"] = {
            "address": {"location": f"$message.header#/{REPLY_HEADER}"},
            "channel": {"$ref": "#/channels/answers"},
        }
        operations[f"ledger.takes.{cls.__name__}"] = answered
        operations[f"user.asks.{cls.__name__}"] = _operation("send", "user", channel, cls.__name__)
    return operations


def _operation(action: str, who: str, channel: str, message: str | None = None) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message or channel}"}],
        "tags": [{"name": who}],
    }


def _ingress_channel(cls: type) -> str:
    return f"ingress{cls.__name__}"


def main(folder: Path) -> None:
    """Write the documents."""
    folder.mkdir(exist_ok=True)
    for name, content in documents().items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
