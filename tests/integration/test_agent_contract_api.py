"""The gateway API that existing agents rely on, one row a line of the agent contract; real HTTP, real log."""

import asyncio
import json
import math
from uuid import uuid4

import pytest
from integration.gateway_world import CANARY_KEY, USAGE, GatewayProcess, Log, MockProvider, eventually, mock_config
from nats_process import NatsServer

from ridges.chassis.blob_store import FileBlobStore
from ridges.chassis.ports import BlobMissing
from ridges.contracts import events as ev

MESSAGES = [{"role": "user", "content": "Say hello."}]
TYPES = ("boolean", "integer", "number", "string", "array", "object")
TOOL = {
    "name": "all_types",
    "description": "takes everything",
    "parameters": [{"type": kind, "name": f"a_{kind}", "description": kind, "required": True} for kind in TYPES[:3]]
    + [{"type": kind, "name": f"a_{kind}", "description": kind} for kind in TYPES[3:]],
}
ERRORS = ("status 400", "status 401", "status 413", "status 429 7", "status 500", "status 503", "garbage")


@pytest.fixture(scope="module")
def mock():
    provider = MockProvider()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def nats(tmp_path_factory):
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    server.migrate_now()
    yield server
    server.kill9()


@pytest.fixture(scope="module")
def log(nats):
    opened = Log(nats)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, nats, mock):
    replay = (
        '[[provider]]\nname = "replay"\nkind = "replay"\n[[provider.model]]\nname = "vectors"\nkind = "embedding"\n'
        'context = 8192\ninput_usd = "0.02"\n'
    )
    config = mock_config(mock.url, "ok", "tools", *ERRORS) + mock_config(mock.url, "ok", name="second") + replay
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats, config).start()
    yield process
    process.stop()


def body(run_id, /, **changes):
    filled = {"evaluation_run_id": run_id, "model": "ok", "temperature": 0.0, "messages": MESSAGES} | changes
    return {name: value for name, value in filled.items() if value is not ...}


def post(gateway, path, content, run_id):
    with gateway.client(run_id) as client:
        return client.post(path, json=content)


# --- POST /api/inference ------------------------------------------------------------------------------------------

HELLO = {"content": "Hello there", "tool_calls": []}
ANSWERS = [
    ("new dialect", "/api/inference", {}, HELLO),
    ("unknown extra fields are ignored", "/api/inference", {"embedding_model": 1, "top": {}}, HELLO),
    ("tool_mode none with an empty list", "/api/inference", {"tool_mode": "none", "tools": []}, HELLO),
    ("tool_mode none with null", "/api/inference", {"tool_mode": "none", "tools": None}, HELLO),
    ("tool_mode auto without tools", "/api/inference", {"tool_mode": "auto"}, HELLO),
    ("alias path", "/agents/inference", {}, HELLO),
    ("both ids: the new dialect", "/api/inference", {"run_id": "OWN"}, HELLO),
    ("older dialect: the bare content", "/api/inference", {"evaluation_run_id": ..., "run_id": "OWN"}, "Hello there"),
    ("older dialect, alias path", "/agents/inference", {"evaluation_run_id": ..., "run_id": "OWN"}, "Hello there"),
    ("an id in capitals", "/api/inference", {"evaluation_run_id": "OWN UPPER"}, HELLO),
]  # fmt: skip


@pytest.mark.parametrize(("path", "changes", "expected"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
def test_inference_answers(gateway, log, path, changes, expected):
    run_id = log.new_run()
    own = {"OWN": run_id, "OWN UPPER": run_id.upper()}
    changes = {name: own.get(value, value) if isinstance(value, str) else value for name, value in changes.items()}
    response = post(gateway, path, body(run_id, **changes), run_id)
    assert (response.status_code, response.json()) == (200, expected)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("path", ["/api/inference", "/agents/inference"])
def test_tools_go_to_the_model_and_come_back_as_named_values(gateway, log, mock, mode, path):
    run_id = log.new_run()
    response = post(gateway, path, body(run_id, model="tools", tool_mode=mode, tools=[TOOL]), run_id)
    values = [True, 3, 0.5, "s", [1, "x"], {"k": None}]
    arguments = [{"name": f"a_{kind}", "value": value} for kind, value in zip(TYPES, values, strict=True)]
    assert response.json() == {"content": "", "tool_calls": [{"name": "all_types", "arguments": arguments}]}
    sent = mock.bodies[-1]
    assert sent["tool_choice"] == mode
    schema = sent["tools"][0]["function"]["parameters"]
    assert schema["required"] == [f"a_{kind}" for kind in TYPES[:3]]
    assert [schema["properties"][f"a_{kind}"]["type"] for kind in TYPES] == list(TYPES)


# --- embeddings, usage, lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/embedding", "/agents/embedding"])
@pytest.mark.parametrize("name", ["evaluation_run_id", "run_id"])
def test_embedding(gateway, log, path, name):
    run_id = log.new_run()
    response = post(gateway, path, {name: run_id, "model": "vectors", "input": "some text"}, run_id)
    assert response.status_code == 200
    assert list(response.json()) == ["embedding"]
    vector = response.json()["embedding"]
    assert math.isclose(sum(number * number for number in vector), 1, abs_tol=1e-6)
    (made,) = log.events(run_id, ev.InferenceMade)
    assert (made.kind, made.usage.output) == ("embedding", 0)


def test_usage_is_what_the_log_says(gateway, log):
    run_id = log.new_run(max_cost_nano_usd=500_000_000)
    with gateway.client(run_id) as client:
        path = f"/api/usage?evaluation_run_id={run_id}"
        assert client.get(path).json() == {"used_cost_usd": 0.0, "remaining_cost_usd": 0.5, "max_cost_usd": 0.5}
        client.post("/api/inference", json=body(run_id))
        used = client.get(path).json()
    (made,) = log.events(run_id, ev.InferenceMade)
    assert made.cost_nano_usd == 20 * 1_500 + 10 * 4_000
    assert used == {"used_cost_usd": 0.00007, "remaining_cost_usd": 0.49993, "max_cost_usd": 0.5}
    assert all(isinstance(value, float) for value in used.values())


def test_inference_models_have_one_entry_for_each_provider(gateway):
    with gateway.client() as client:
        listed = client.get("/api/inference-models").json()
    assert [entry for entry in listed if entry["name"] == "ok"] == [
        {
            "name": "ok",
            "external_name": "ok",
            "max_input_tokens": 100000,
            "cost_usd_per_million_input_tokens": 1.5,
            "cost_usd_per_million_output_tokens": 4.0,
        }
    ] * 2
    assert [entry["external_name"] for entry in listed if entry["name"] == "status-500"] == ["status 500"]


def test_embedding_models(gateway):
    with gateway.client() as client:
        assert client.get("/api/embedding-models").json() == [
            {
                "name": "vectors",
                "external_name": "vectors",
                "max_input_tokens": 8192,
                "pricing_mode": "per_token",
                "cost_usd_per_million_input_tokens": 0.02,
                "cost_usd_per_second": None,
            }
        ]


# --- errors: status and exact text --------------------------------------------------------------------------------

NONE_RULE = "If you specify a tool mode of NONE, you must not specify any tools."
REQUIRED_RULE = "If you specify a tool mode of REQUIRED, you must specify at least one tool."
UNKNOWN = "No evaluation run exists with the given evaluation run ID {run}."
STATE = "The evaluation run with ID {run} is not in the running_agent state (current state: {state})."
COST = (
    "The evaluation run with ID {run} has reached or exceeded the evaluation run cost limit of 0.00 USD "
    "(current cost: 0.00 USD)."
)
NO_CHAT = "The model {model} is not supported by Ridges for inference."
NO_EMBEDDING = "The model {model} is not supported by Ridges for embedding."
STATES = ("pending", "initializing_eval", "running_eval", "finished", "error")

REFUSALS = [
    ("none with tools", "running_agent", {}, {"tool_mode": "none", "tools": [TOOL]}, 422, NONE_RULE),
    ("default mode with tools", "running_agent", {}, {"tools": [TOOL]}, 422, NONE_RULE),
    ("required without tools", "running_agent", {}, {"tool_mode": "required"}, 422, REQUIRED_RULE),
    ("required with empty tools", "running_agent", {}, {"tool_mode": "required", "tools": []}, 422, REQUIRED_RULE),
    ("unknown run", None, {}, {}, 400, UNKNOWN),
    *((f"state {state}", state, {}, {}, 400, STATE.replace("{state}", state)) for state in STATES),
    ("cost limit", "running_agent", {"max_cost_nano_usd": 0}, {}, 429, COST),
    ("unknown model", "running_agent", {}, {"model": "nope"}, 404, NO_CHAT.format(model="nope")),
    ("an embedding model", "running_agent", {}, {"model": "vectors"}, 404, NO_CHAT.format(model="vectors")),
    ("order: tool rules before the run", None, {}, {"tools": [TOOL]}, 422, NONE_RULE),
    ("order: state before limits", "finished", {"max_cost_nano_usd": 0}, {}, 400, STATE.replace("{state}", "finished")),
    ("order: limits before the model", "running_agent", {"max_cost_nano_usd": 0}, {"model": "nope"}, 429, COST),
    ("order: the run before the model", None, {}, {"model": "nope"}, 400, UNKNOWN),
    ("requests", "running_agent", {"max_requests": 0}, {}, 429,
     "The evaluation run with ID {run} has reached its budget of 0 requests (current: 0)."),
    ("tokens", "running_agent", {"max_tokens": 0}, {}, 429,
     "The evaluation run with ID {run} has reached its budget of 0 tokens (current: 0)."),
]  # fmt: skip


@pytest.mark.parametrize("path", ["/api/inference", "/agents/inference"])
@pytest.mark.parametrize("dialect", ["evaluation_run_id", "run_id"])
@pytest.mark.parametrize(
    ("state", "limits", "changes", "status", "detail"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_refusals_have_the_contracts_texts(gateway, log, mock, path, dialect, state, limits, changes, status, detail):
    run_id = log.new_run(state, **limits) if state else str(uuid4())
    before = len(mock.bodies)
    content = body(run_id, **changes)
    content[dialect] = content.pop("evaluation_run_id")
    response = post(gateway, path, content, run_id)
    assert (response.status_code, response.json()) == (status, {"detail": detail.replace("{run}", run_id)})
    assert len(mock.bodies) == before, "no provider is asked"
    assert log.events(run_id, ev.InferenceReserved) == []
    refused = log.events(run_id, ev.InferenceRefused)
    if state and status != 422:
        assert [(event.status, event.detail) for event in refused] == [(status, detail.replace("{run}", run_id))]
    else:
        assert refused == []


@pytest.mark.parametrize(
    ("state", "limits", "changes", "status", "detail"),
    [
        (None, {}, {}, 400, UNKNOWN),
        ("finished", {}, {}, 400, STATE.replace("{state}", "finished")),
        ("running_agent", {"max_cost_nano_usd": 0}, {}, 429, COST),
        ("running_agent", {}, {"model": "ok"}, 404, NO_EMBEDDING.format(model="ok")),
    ],
)
def test_embedding_refusals(gateway, log, state, limits, changes, status, detail):
    run_id = log.new_run(state, **limits) if state else str(uuid4())
    content = {"evaluation_run_id": run_id, "model": "vectors", "input": "x"} | changes
    response = post(gateway, "/api/embedding", content, run_id)
    assert (response.status_code, response.json()) == (status, {"detail": detail.replace("{run}", run_id)})


MISFITS = [
    ("no id", {"evaluation_run_id": ...}, ["body", "evaluation_run_id"]),
    ("id is no UUID", {"evaluation_run_id": "abc"}, ["body", "evaluation_run_id"]),
    ("older id is no UUID", {"evaluation_run_id": ..., "run_id": "abc"}, ["body", "run_id"]),
    ("no model", {"model": ...}, ["body", "model"]),
    ("no temperature", {"temperature": ...}, ["body", "temperature"]),
    ("temperature is a word", {"temperature": "warm"}, ["body", "temperature"]),
    ("no messages", {"messages": ...}, ["body", "messages"]),
    ("messages are no list", {"messages": "x"}, ["body", "messages"]),
    ("a message without role", {"messages": [{"content": "x"}]}, ["body", "messages", 0, "role"]),
    ("content is no text", {"messages": [{"role": "user", "content": 1}]}, ["body", "messages", 0, "content"]),
    ("unknown tool mode", {"tool_mode": "sometimes"}, ["body", "tool_mode"]),
    ("unknown parameter type", {"tools": [{"name": "f", "description": "d", "parameters": [
        {"type": "date", "name": "n", "description": "d"}]}]}, ["body", "tools", 0, "parameters", 0, "type"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "place"), [row[1:] for row in MISFITS], ids=[row[0] for row in MISFITS])
def test_a_body_that_does_not_fit_is_422_with_a_list(gateway, log, changes, place):
    run_id = log.new_run()
    response = post(gateway, "/api/inference", body(run_id, **changes), run_id)
    assert response.status_code == 422
    (problem,) = response.json()["detail"]
    assert problem["loc"] == place
    assert problem["msg"]
    assert problem["type"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"a":' * 2000])
def test_what_is_no_json_object_is_422(gateway, log, raw):
    run_id = log.new_run()
    with gateway.client(run_id) as client:
        response = client.post("/api/inference", content=raw)
    assert response.status_code == 422
    assert isinstance(response.json()["detail"], list)


PROVIDER_ERRORS = [
    ("status-400", 400, "400", None),
    ("status-401", 401, "401", None),
    ("status-413", 413, "413", None),
    ("status-429-7", 429, "429", "7"),
    ("status-500", 500, "500", None),
    ("status-503", 503, "503", None),
    ("garbage", 502, "malformed", None),
]


@pytest.mark.parametrize(("model", "status", "code", "retry_after"), PROVIDER_ERRORS)
def test_a_providers_error_comes_with_its_status_and_text(tmp_path, nats, log, mock, model, status, code, retry_after):
    served = model.replace("-", " ")
    gateway = GatewayProcess(tmp_path, nats, mock_config(mock.url, served)).start()
    try:
        run_id = log.new_run()
        response = post(gateway, "/api/inference", body(run_id, model=model), run_id)
    finally:
        gateway.stop()
    detail = response.json()["detail"]
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert detail.startswith("The provider mock ")
    assert f"for the model {model} (code: {code}): " in detail
    if code.isdigit():
        assert "it hurts, ***" in detail, "the provider's text, without our key"
    assert CANARY_KEY not in detail
    (failed,) = log.events(run_id, ev.InferenceFailed)
    assert (failed.status, failed.detail) == (status, detail)


# --- identity and sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer nonsense", "Basic eDp5", "OTHER KEY"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/inference"),
        ("POST", "/api/embedding"),
        ("GET", "/api/usage"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
    ],
)
def test_without_a_good_run_token_nothing_happens(gateway, log, header, method, path):
    run_id = log.new_run()
    if header == "OTHER KEY":
        header = f"Bearer {run_id}.{'0' * 64}"
    headers = {"Authorization": header} if header else {}
    with gateway.client() as client:
        response = client.request(method, path, json=body(run_id), headers=headers)
    assert response.status_code == 401
    assert "run token" in response.json()["detail"] or "token is refused" in response.json()["detail"]
    assert len(log.events(run_id)) == 2


@pytest.mark.parametrize("path", ["/api/inference", "/api/embedding", "/api/usage"])
@pytest.mark.parametrize("other_exists", [True, False])
def test_a_body_that_names_another_run_is_refused_and_recorded(gateway, log, path, other_exists):
    run_id, other = log.new_run(), log.new_run() if other_exists else str(uuid4())
    with gateway.client(run_id) as client:
        if path == "/api/usage":
            response = client.get(path, params={"evaluation_run_id": other})
        else:
            response = client.post(path, json=body(other, input="x"))
    assert response.status_code == 403
    assert other in response.json()["detail"]
    (refused,) = log.events(run_id, ev.InferenceRefused)
    assert (refused.reason, refused.status) == ("identity", 403)
    assert log.events(other, ev.InferenceReserved, ev.InferenceRefused) == []


@pytest.mark.parametrize(
    ("query", "status"), [("", 422), ("?evaluation_run_id=7", 422), ("?run_id=x", 422)], ids=["absent", "bad", "other"]
)
def test_usage_needs_the_id(gateway, log, query, status):
    with gateway.client(log.new_run()) as client:
        response = client.get(f"/api/usage{query}")
    assert response.status_code == status
    assert response.json()["detail"][0]["loc"] == ["query", "evaluation_run_id"]


def test_usage_of_an_unknown_run(gateway):
    run_id = str(uuid4())
    with gateway.client(run_id) as client:
        response = client.get("/api/usage", params={"evaluation_run_id": run_id})
    assert (response.status_code, response.json()) == (400, {"detail": UNKNOWN.format(run=run_id)})


def test_large_prompts_pass_and_too_large_bodies_are_413(gateway, log):
    run_id = log.new_run(max_cost_nano_usd=10**12)
    large = [{"role": "user", "content": "x" * 8_000_000}]
    assert post(gateway, "/api/inference", body(run_id, messages=large), run_id).status_code == 200
    too_large = [{"role": "user", "content": "x" * 17_000_000}]
    response = post(gateway, "/api/inference", body(run_id, messages=too_large), run_id)
    assert (response.status_code, response.json()) == (413, {"detail": "The body is larger than 16 MiB."})


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/api/nope", 404), ("GET", "/api/inference", 405)])
def test_other_paths_have_the_same_error_shape(gateway, method, path, status):
    with gateway.client() as client:
        response = client.request(method, path)
    assert response.status_code == status
    assert isinstance(response.json()["detail"], str)


def kept(blobs, digest):
    """None while it is not there: contents are stored behind the call."""
    try:
        return asyncio.run(blobs.get(digest))
    except BlobMissing:
        return None


def test_every_answered_call_is_one_event_with_prices(gateway, log):
    run_id = log.new_run()
    post(gateway, "/api/inference", body(run_id), run_id)
    reserved, made = log.events(run_id, ev.InferenceReserved, ev.InferenceMade)
    (attempt,) = made.attempts
    assert made.call_id == reserved.call_id
    assert made.cost_nano_usd == attempt.cost_nano_usd <= reserved.cost_nano_usd
    assert attempt.price.input == 1_500_000_000
    assert (made.usage.input, made.usage.output) == (USAGE["prompt_tokens"], USAGE["completion_tokens"])
    blobs = FileBlobStore(gateway.folder / "blobs")
    assert json.loads(eventually(lambda: kept(blobs, made.request.digest), 20)) == body(run_id)
