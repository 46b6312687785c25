"""What a provider would bill beside tokens is refused before anybody is asked, unless it is allowed by name."""

import pytest
from integration.gateway_world import MESSAGES, chat, eventually, mock_config

from ridges.contracts import events as ev

FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CUSTOM = {"type": "custom", "custom": {"name": "c"}}
SEARCH = {"type": "web_search"}
FILE = {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}


def said(*parts):
    return [{"role": "user", "content": [{"type": "text", "text": "Say hello."}, *parts]}]


UNPRICED = {
    "web_search_options": {"web_search_options": {}},
    "plugins": {"plugins": [{"id": "web"}]},
    "service_tier": {"service_tier": "priority"},
    "modalities": {"modalities": ["text", "audio"], "audio": None},
    "audio": {"audio": {"voice": "alloy", "format": "mp3"}},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "background": {"background": True},
    "speed": {"speed": "fast"},
    "enable_search": {"enable_search": True},
    "search_parameters": {"search_parameters": {"mode": "on"}},
    "models": {"models": ["dearer"]},
    "provider": {"provider": {"order": ["dearer"]}},
    "tools.web_search": {"tools": [FUNCTION, SEARCH]},
    "tools.code_interpreter": {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    "tools.file_search": {"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]},
    "tools.mcp": {"tools": [{"type": "mcp", "server_url": "https://x"}]},
    "tools.image_generation": {"tools": [{"type": "image_generation"}]},
    "tools.openrouter:web_search": {"tools": [{"type": "openrouter:web_search"}]},
    "tools.builtin_function": {"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]},
    "tools.untyped": {"tools": [{"google_search": {}}]},
    "content.file": {"messages": said(FILE)},
    "content.input_audio": {"messages": said(SOUND)},
}
ORDINARY = [
    {"service_tier": "auto"},
    {"service_tier": "default"},
    {"service_tier": None, "audio": None, "web_search_options": None},
    {"modalities": ["text"], "plugins": [], "models": [], "background": False, "prediction": None},
    {"store": True, "metadata": {"a": "b"}, "logprobs": True, "user": "u", "unheard_of": {"a": [1]}},
    {"tools": [FUNCTION, CUSTOM], "tool_choice": "auto"},
    {"tools": None},
    {"tools": []},
    {"tools": [{"function": FUNCTION["function"]}]},
    {"messages": said({"type": "image_url", "image_url": {"url": "https://x/y.png"}})},
    {"messages": said({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}), "max_tokens": 1},
]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_has_no_price_is_refused_and_nobody_is_asked(start, log, mock, streamed):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    for name, fields in UNPRICED.items():
        refusal = chat(gateway, run_id, stream=streamed, **fields)
        error = refusal.json()["error"]
        assert (refusal.status_code, error["code"]) == (422, "unpriced"), (name, refusal.text)
        assert error["message"].startswith(f"{name} asks for something that no price of the model ok covers"), error
        assert f'allow_unpriced = ["{name}"]' in error["message"]
    assert mock.bodies == []
    assert log.events(run_id, ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed) == []
    refused = log.events(run_id, ev.InferenceRefused)
    assert {(event.reason, event.status) for event in refused} == {("price", 422)}
    assert len(refused) == len(UNPRICED)


def test_what_costs_no_more_than_its_tokens_passes_untouched(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    for fields in ORDINARY:
        reply = chat(gateway, run_id, **fields)
        assert reply.status_code == 200, (fields, reply.text)
        assert {name: mock.bodies[-1][name] for name in fields} == fields
    assert len(log.events(run_id, ev.InferenceMade)) == len(ORDINARY)


def test_embeddings_are_held_to_the_same_fields(start, log, mock):
    gateway = start(mock_config(mock.url, "vector", kind="embedding"))
    run_id = log.new_run()
    with gateway.client(run_id) as client:
        refusal = client.post("/v1/embeddings", json={"model": "vector", "input": "x", "service_tier": "priority"})
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (422, "unpriced")
    assert mock.bodies == []


def test_a_provider_that_allows_it_by_name_gets_it_and_the_others_do_not(start, log, mock):
    allowing = 'allow_unpriced = ["tools.web_search", "service_tier"]'
    strict = mock_config(mock.url, "ok", name="strict", extra="weight = 1000")
    gateway = start(strict + mock_config(mock.url, "ok", name="lenient", extra=allowing))
    run_id = log.new_run()
    assert chat(gateway, run_id, tools=[SEARCH]).status_code == 200
    assert chat(gateway, run_id, tools=[SEARCH], service_tier="flex").status_code == 200
    assert chat(gateway, run_id, tools=[SEARCH], plugins=[{"id": "web"}]).status_code == 422
    assert [body["tools"] for body in mock.bodies] == [[SEARCH]] * 2
    providers = {made.attempts[0].provider for made in log.events(run_id, ev.InferenceMade)}
    assert providers == {"lenient"}


def test_a_suffix_that_buys_a_search_is_another_model(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    assert chat(gateway, run_id, "ok:online").json()["error"]["code"] == "model_not_found"
    assert mock.bodies == []


def test_a_file_with_such_a_model_is_refused_at_the_start_and_by_a_reload(start, log, mock):
    config = mock_config(mock.url, "ok")
    gateway = start(config)
    (gateway.folder / "ridges.toml").write_text(config.replace('served = "ok"', 'served = "ok:online"'))
    gateway.process.send_signal(1)
    eventually(lambda: "with :online each call pays for a web search" in gateway.log_path.read_text())
    run_id = log.new_run()
    assert chat(gateway, run_id).status_code == 200
    gateway.stop()
    gateway.start(wait=False)
    assert gateway.process.wait(20) == 2
    assert gateway.log_path.read_text().count("with :online each call pays for a web search") == 2


@pytest.mark.parametrize("tools", [5, "x", {}, [5], [[]], {"web_search": {}}])
def test_tools_that_are_no_list_of_objects_are_an_invalid_body(start, log, mock, tools):
    gateway = start(mock_config(mock.url, "ok"))
    reply = chat(gateway, log.new_run(), tools=tools)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_body")
    assert mock.bodies == []


def test_the_contract_is_asked_for_none_of_it(start, log, mock):
    """Extra fields of a contract body are ignored, as they were: none of them reaches a provider."""
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    body = {"evaluation_run_id": run_id, "model": "ok", "temperature": 0, "messages": MESSAGES}
    with gateway.client(run_id) as client:
        reply = client.post("/api/inference", json=body | {"plugins": [{"id": "web"}], "service_tier": "priority"})
    assert (reply.status_code, reply.json()["content"]) == (200, "Hello there")
    assert mock.bodies[0].keys().isdisjoint({"plugins", "service_tier"})
