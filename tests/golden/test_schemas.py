"""The generated documents are what stands in the repository, and they are what they claim to be."""

import copy
import json
from pathlib import Path

import jsonschema_rs
import pytest

from ridges.contracts import schema
from ridges.contracts.events import EVENT_TYPES
from ridges.contracts.flows import FLOWS

REGENERATE = (
    "contracts/schema/{} is not what the code says; if the change is meant, run: python -m ridges.contracts.schema"
)
OFFICIAL = Path(__file__).parent / "asyncapi" / "asyncapi-3.0.0.schema.json"


@pytest.mark.parametrize("name", sorted(schema.documents()))
def test_the_documents_in_the_repository_are_up_to_date(name):
    generated = schema.documents()[name]
    assert (schema.FOLDER / name).read_bytes() == generated, REGENERATE.format(name)


def resolve(document, reference):
    assert reference.startswith("#/"), reference
    for step in reference[2:].split("/"):
        document = document[step]
    return document


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references(part)


@pytest.mark.parametrize("name", sorted(schema.documents()))
def test_every_reference_leads_somewhere(name):
    document = json.loads((schema.FOLDER / name).read_bytes())
    found = set(references(document))
    assert len(found) > 20
    for reference in found:
        resolve(document, reference)


def test_the_events_schema_is_a_json_schema():
    document = schema.events_schema()
    jsonschema_rs.meta.validate(document)
    assert len(document["oneOf"]) == len(EVENT_TYPES)


class TestAsyncApi:
    """Source: AsyncAPI 3.0.0, required fields of the objects used."""

    @pytest.fixture
    def document(self):
        return json.loads((schema.FOLDER / "asyncapi.json").read_bytes())

    @pytest.fixture(scope="class")
    @classmethod
    def official(cls):
        return jsonschema_rs.validator_for(json.loads(OFFICIAL.read_bytes()))

    def test_it_fits_the_official_schema(self, document, official):
        assert [f"{error.instance_path}: {error.message}" for error in official.iter_errors(document)] == []

    @pytest.mark.parametrize(
        ("place", "name", "wrong"),
        [
            ((), "asyncapi", "2.6.0"),
            (("channels", "RunRequested"), "adress", "ev.{run_id}.RunRequested"),
            (("operations", "ledger.appends.RunRequested"), "action", "push"),
            (("operations", "ledger.takes.RequestRun", "reply", "address"), "location", "the header"),
            (("components", "messages", "RunRequested"), "payload", {"type": "structure"}),
        ],
    )
    def test_the_official_schema_refuses_what_is_wrong(self, document, official, place, name, wrong):
        spoilt = copy.deepcopy(document)
        part = spoilt
        for step in place:
            part = part[step]
        part[name] = wrong
        assert not official.is_valid(spoilt)

    def test_head(self, document):
        assert document["asyncapi"] == "3.0.0"
        assert set(document["info"]) >= {"title", "version"}
        assert set(document) <= {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}

    def test_channels_declare_the_parameters_of_their_addresses(self, document):
        for channel in document["channels"].values():
            assert set(channel) <= {"address", "messages", "parameters", "description"}
            named = {part[1:-1] for part in (channel["address"] or "").split(".") if part.startswith("{")}
            assert set(channel.get("parameters", {})) == named
            assert channel["messages"]

    def test_operations_use_messages_of_their_channel(self, document):
        for operation in document["operations"].values():
            assert set(operation) <= {"action", "channel", "messages", "tags", "reply"}
            assert operation["action"] in {"send", "receive"}
            for message in operation["messages"]:
                assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")
            assert set(operation.get("reply", {})) <= {"address", "channel", "messages"}

    def test_payloads_are_json_schemas(self, document):
        for message in document["components"]["messages"].values():
            assert set(message) <= {"name", "summary", "payload", "headers"}
            jsonschema_rs.meta.validate({"components": document["components"], **message["payload"]})

    def test_every_event_has_a_channel_a_writer_and_a_reader(self, document):
        operations = document["operations"]
        for name in EVENT_TYPES:
            assert document["channels"][name]["address"] == f"ev.{{run_id}}.{name}"
            assert [key for key in operations if key.endswith(f".appends.{name}")]
            assert f"ledger.consumes.{name}" in operations

    def test_each_event_is_appended_by_exactly_one_service(self):
        writers = {name: [s for s, flow in FLOWS.items() if cls in flow.appends] for name, cls in EVENT_TYPES.items()}
        assert {name: services for name, services in writers.items() if len(services) != 1} == {}

    def test_what_users_may_ask_is_answered(self, document):
        for name in ("RequestRun", "CancelRun"):
            taken = document["operations"][f"ledger.takes.{name}"]
            assert taken["reply"]["address"]["location"] == "$message.header#/Ridges-Reply-To"
        assert document["channels"]["ingressRequestRun"]["address"] == "in.RunRequested"
        assert document["channels"]["ingressCancelRun"]["address"] == "in.RunCancelled"
