"""Every event that was ever stored can be read for ever: one recorded message for each (type, version)."""

import json
from pathlib import Path

import jsonschema_rs
import pytest

from ridges.contracts import schema
from ridges.contracts.codec import CURRENT_VERSION, decode, encode
from ridges.contracts.events import EVENT_TYPES, type_name

FOLDER = Path(__file__).with_name("events")
RECORDED = sorted(FOLDER.glob("*.json"))


def test_every_version_of_every_type_is_recorded():
    wanted = {f"{name}.v{n}.json" for name, current in CURRENT_VERSION.items() for n in range(1, current + 1)}
    assert {path.name for path in RECORDED} == wanted, (
        "tests/golden/events holds one message for each type and version, as the log holds it, all fields set; "
        "add what is missing by hand, never change or delete what is there"
    )


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_it_decodes(path):
    event = decode(path.read_bytes())
    assert type_name(event) == path.name.partition(".")[0]
    assert event.version == CURRENT_VERSION[type_name(event)]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_it_decodes_with_fields_of_a_later_release(path):
    stored = json.loads(path.read_bytes())
    assert decode(json.dumps(stored | {"unheard_of": {"a": 1}}).encode()) == decode(path.read_bytes())


ADDED_LATER = {
    "InferenceReserved": ("idempotency_digest", "gateway", "prompt_tokens", "price", "kind"),
    "InferenceFailed": ("reply",),
    "AgentFailed": ("unjudged_patch",),
    "AgentStarted": ("previous_log", "previous_patch", "previous_exit"),
    "RunRequested": (
        "limits/model/end_when_spent",
        "limits/model/max_requests_per_minute",
        "limits/sandbox/network",
        "limits/sandbox/runtime",
        "priority",
    ),
    "InferenceMade": ("attempts/0/price/per_second",),
    "ProblemPublished": ("sandbox",),
    "EvaluationRequested": ("limits/network", "limits/runtime"),
    "PatchProduced": ("exit/pids_peak", "exit/written_bytes"),
}


@pytest.mark.parametrize(("name", "added"), ADDED_LATER.items())
def test_it_decodes_as_it_was_written_before_fields_were_added(name, added):
    stored = json.loads((FOLDER / f"{name}.v1.json").read_bytes())
    for place in added:
        *way, last = [int(step) if step.isdigit() else step for step in place.split("/")]
        node = stored
        for step in way:
            node = node[step]
        del node[last]
    assert type_name(decode(json.dumps(stored).encode())) == name


@pytest.mark.parametrize("path", [p for p in RECORDED if p.name.endswith(".v1.json")], ids=lambda path: path.stem)
def test_a_current_message_is_written_again_as_it_was(path):
    stored = json.loads(path.read_bytes())
    if stored.get("version", 1) == CURRENT_VERSION[stored["type"]]:
        assert json.loads(encode(decode(path.read_bytes()))) == stored
        assert set(stored) == {"type", *EVENT_TYPES[stored["type"]].__struct_fields__}, "all fields are recorded"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_it_fits_the_published_schema(path):
    validator = jsonschema_rs.validator_for(schema.events_schema(), validate_formats=True)
    stored = json.loads(path.read_bytes())
    if stored.get("version", 1) == CURRENT_VERSION[stored["type"]]:
        validator.validate(stored)
        assert not validator.is_valid({key: value for key, value in stored.items() if key != "run_id"})
