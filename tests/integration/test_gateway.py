"""The gateway as a process: replicas, endings, outages, secrets, and the packages that agents use."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest
from integration.gateway_world import (
    EXTRA,
    EXTRA_CHUNK,
    FLOOD,
    MESSAGES,
    TOKEN_KEY,
    GatewayProcess,
    ask,
    chat,
    eventually,
    mock_config,
    open_calls,
)
from nats_process import free_port

from ridges.contracts import events as ev
from ridges.contracts.run_token import sign_run_token

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# --- limits -------------------------------------------------------------------------------------------------------


LIMITS = {
    "cost": ({"max_cost_nano_usd": 7_000_000}, lambda event: event.cost_nano_usd),
    "requests": ({"max_requests": 30}, lambda _: 1),
    "tokens": (
        {"max_tokens": 4_000},
        lambda event: event.tokens if isinstance(event, ev.InferenceReserved) else event.usage.total,
    ),
    "concurrency": ({"max_concurrency": 7}, lambda event: isinstance(event, ev.InferenceReserved)),
}


@pytest.mark.timeout(180)
def test_two_hundred_parallel_calls_through_two_replicas_stay_within_each_limit(start, log, mock):
    """Used and reserved together, at every moment in the log."""
    gateways = [start(mock_config(mock.url, "ok", "slow 0.2", extra="max_concurrency = 500")) for _ in range(2)]
    for kind, (limits, weight) in LIMITS.items():
        run_id = log.new_run(**({"max_cost_nano_usd": 10**12, "max_concurrency": 500} | limits))
        model = "slow-0.2" if kind == "concurrency" else "ok"
        with ThreadPoolExecutor(200) as pool:
            replies = list(pool.map(lambda n, run=run_id, m=model: ask(gateways[n % 2], run, m), range(200)))
        assert {reply.status_code for reply in replies} == {200, 429}, kind
        held, most = {}, 0
        for event in log.events(run_id, ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed):
            held[event.call_id] = weight(event)
            most = max(most, sum(held.values()))
        assert most <= next(iter(limits.values())), kind
        answered = [reply.status_code for reply in replies].count(200)
        assert len(log.events(run_id, ev.InferenceMade)) == answered > 5, kind


def test_the_budget_can_be_used_to_its_end_and_then_says_so(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    limit = 1_200_000
    run_id = log.new_run(max_cost_nano_usd=limit)
    replies = []
    while len(replies) < 40 and (not replies or replies[-1].status_code == 200):
        replies.append(ask(gateway, run_id))
    assert mock.bodies[-1]["max_tokens"] < 1_000, "cut down to what was left"
    assert replies[-1].status_code == 429
    assert "has reached or exceeded the evaluation run cost limit of 0.0012 USD" in replies[-1].json()["detail"]
    assert replies[-1].headers["x-should-retry"] == "false"
    used = sum(event.cost_nano_usd for event in log.events(run_id, ev.InferenceMade))
    assert limit * 0.5 < used <= limit


def test_requests_and_concurrency(start, log, mock):
    gateway = start(mock_config(mock.url, "ok", "slow 0.5"))
    run_id = log.new_run(max_requests=3, max_concurrency=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, gateway, run_id, "slow-0.5")
        eventually(lambda: mock.open)
        second = ask(gateway, run_id)
        assert first.result().status_code == 200
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert "already has 1 model calls in flight" in second.json()["detail"]
    assert [ask(gateway, run_id).status_code for _ in range(3)] == [200, 200, 429]


def test_spending_survives_a_restart(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run(max_requests=1)
    assert ask(gateway, run_id).status_code == 200
    gateway.stop()
    gateway.start()
    assert ask(gateway, run_id).status_code == 429


# --- failover -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["status 500", "status 429 1", "garbage", "slow 9", "nobody"])
@pytest.mark.parametrize("streamed", [False, True])
def test_another_provider_of_the_same_model_answers(start, log, mock, bad, streamed):
    url = f"http://127.0.0.1:{free_port()}/v1" if bad == "nobody" else mock.url
    first = mock_config(url, bad, name="first", extra="weight = 1000000\ntimeout_s = 0.3")
    config = first.replace(f'name = "{bad.replace(" ", "-")}"', 'name = "m"') + mock_config(
        mock.url, "ok", name="second", extra="weight = 0.000001"
    ).replace('name = "ok"', 'name = "m"')
    gateway = start(config)
    run_id = log.new_run()
    response = chat(gateway, run_id, "m", stream=streamed)
    assert response.status_code == 200
    assert "Hello" in response.text
    (made,) = log.events(run_id, ev.InferenceMade)
    assert [attempt.provider for attempt in made.attempts] == ["first", "second"]


# --- endings ------------------------------------------------------------------------------------------------------


CLOSED_WITHIN_S = 2.0
"""The claim is 0.1 s, which bench/gateway/caller_gone.py measures; a busy machine gets more."""


def seconds_until_lost(mock, left_at):
    assert mock.lost.wait(20)
    return mock.lost_at - left_at


def test_a_buffered_caller_that_leaves_frees_the_provider_at_once(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 20"))
    run_id = log.new_run()
    with gateway.client(run_id) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json={"model": "slow-20", "messages": MESSAGES}, timeout=0.3)
    assert seconds_until_lost(mock, time.monotonic()) < CLOSED_WITHIN_S
    (failed,) = eventually(lambda: log.events(run_id, ev.InferenceFailed))
    assert (failed.status, failed.attempts[0].outcome, failed.attempts[0].usage_source) == (
        499,
        "abandoned",
        "estimated",
    )


def test_a_streaming_caller_that_leaves_pays_for_what_came(start, log, mock):
    gateway = start(mock_config(mock.url, "hang"))
    run_id = log.new_run()
    body = {"model": "hang", "messages": MESSAGES, "stream": True}
    with gateway.client(run_id) as client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
        next(reply.iter_bytes())
    assert seconds_until_lost(mock, time.monotonic()) < CLOSED_WITHIN_S
    (failed,) = eventually(lambda: log.events(run_id, ev.InferenceFailed))
    assert (failed.status, failed.attempts[0].outcome, failed.usage.output) == (499, "abandoned", 2)


def test_a_caller_that_reads_slowly_holds_the_provider_back_and_gets_everything(start, log, mock):
    gateway = start(mock_config(mock.url, "flood"), RIDGES_CONTENTS="none")
    run_id = log.new_run(max_cost_nano_usd=10**15, max_tokens=10**9)
    body = {"model": "flood", "messages": MESSAGES, "stream": True}
    with gateway.client(run_id) as client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
        time.sleep(2)
        sent_meanwhile = mock.flooded
        lines = [line for line in reply.iter_lines() if line]
    numbers = [line.partition('"content": "')[2].partition(" x")[0] for line in lines[2:-2]]
    whole_and_in_order = numbers == [str(number) for number in range(FLOOD)]
    assert whole_and_in_order, (len(numbers), numbers[:3], numbers[-3:])
    assert lines[-1] == "data: [DONE]"
    assert sent_meanwhile < FLOOD


def test_a_stream_that_is_cut_ends_in_an_error_and_no_done(start, log, mock):
    gateway = start(mock_config(mock.url, "cut"))
    run_id = log.new_run()
    text = chat(gateway, run_id, "cut", stream=True).text
    assert "[DONE]" not in text
    assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "provider_failed"
    (failed,) = log.events(run_id, ev.InferenceFailed)
    assert failed.attempts[0].outcome == "cut"


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_is_cut_after_its_headers_is_charged_and_asked_of_another(start, log, mock, streamed):
    """The provider has begun to work: it will bill that."""
    config = mock_config(mock.url, "halfway", name="first", extra="weight = 1000000")
    config += mock_config(mock.url, "ok", name="second", extra="weight = 0.000001").replace('"ok"', '"halfway"', 1)
    gateway = start(config)
    run_id = log.new_run()
    reply = chat(gateway, run_id, "halfway", stream=streamed)
    assert (reply.status_code, "Hello" in reply.text) == (200, True)
    (made,) = log.events(run_id, ev.InferenceMade)
    cut, good = made.attempts
    assert (cut.outcome, cut.status, cut.usage_source, good.outcome) == ("cut", 200, "estimated", "ok")
    assert cut.usage.input > 0
    assert cut.usage.output >= (0 if streamed else 100)
    assert made.cost_nano_usd == cut.cost_nano_usd + good.cost_nano_usd > good.cost_nano_usd > 0


def test_sigterm_lets_calls_end_and_loses_nothing(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 1"))
    run_id = log.new_run()
    with ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(ask, gateway, run_id, "slow-1") for _ in range(8)]
        eventually(lambda: mock.open == 8)
        assert gateway.terminate() == 0
        assert [reply.result().status_code for reply in replies] == [200] * 8
    assert len(log.events(run_id, ev.InferenceMade)) == 8


def test_sigterm_ends_what_does_not_end_by_itself_and_settles_it(start, log, mock):
    """A stream without end, one that is stuck, a slow call: each is told, each is charged, none stays open."""
    gateway = start(mock_config(mock.url, "trickle", "hang", "slow 60"), drain_timeout_s=1)
    run_id = log.new_run()
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(chat, gateway, run_id, model, stream=True) for model in ("trickle", "hang")]
        buffered = pool.submit(chat, gateway, run_id, "slow-60", key="k")
        eventually(lambda: mock.open == 3, 20)
        assert gateway.terminate(60) == 0
        for stream in streams:
            text = stream.result().text
            assert "Hello" in text
            assert "[DONE]" not in text
            assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "shutting_down"
        assert (buffered.result().status_code, buffered.result().json()["error"]["code"]) == (503, "shutting_down")
    assert not open_calls(log, run_id)
    failed = log.events(run_id, ev.InferenceFailed)
    assert [(event.status, event.attempts[0].outcome) for event in failed] == [(503, "abandoned")] * 3
    assert all(event.cost_nano_usd > 0 for event in failed)


def test_a_gateway_leaves_the_reservations_of_others_alone_and_they_still_count(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 20", "ok"))
    run_id = log.new_run(max_cost_nano_usd=5_000_000)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(ask, gateway, run_id, "slow-20")
        eventually(lambda: mock.open)
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        assert isinstance(lost.exception(), httpx.TransportError)
    gateway.env |= {"RIDGES_BUDGET_WAIT_S": "0", "RIDGES_GATEWAY_NAME": "another one"}
    gateway.start()
    assert ask(gateway, run_id).status_code == 200
    assert mock.bodies[-1]["max_tokens"] < 1_000, "what the lost call may have cost is set aside"
    assert len(log.events(run_id, ev.InferenceReserved)) == 2


# --- outages ------------------------------------------------------------------------------------------------------


def test_without_the_log_calls_fail_closed_and_work_again_when_it_is_back(start, log, mock, nats_server):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    assert ask(gateway, run_id).status_code == 200
    asked = len(mock.bodies)
    nats_server.kill9()
    refused = ask(gateway, run_id)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "event log does not answer" in refused.json()["detail"]
    assert len(mock.bodies) == asked
    not_ready = httpx.get(f"{gateway.url}/readyz")
    assert not_ready.status_code == 503
    assert "event log" in not_ready.json()["failing"]
    assert httpx.get(f"{gateway.url}/livez").status_code == 200
    nats_server.start()
    eventually(lambda: ask(gateway, run_id).status_code == 200, 20)
    eventually(lambda: not open_calls(log, run_id), 10)


def test_an_answer_that_came_while_the_log_was_away_is_settled_later(start, log, mock, nats_server):
    gateway = start(mock_config(mock.url, "slow 1"))
    run_id = log.new_run()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, gateway, run_id, "slow-1")
        eventually(lambda: mock.open)
        nats_server.kill9()
        assert reply.result().status_code == 200
        nats_server.start()
    (made,) = eventually(lambda: log.events(run_id, ev.InferenceMade), 20)
    assert made.cost_nano_usd == 20 * 1_500 + 10 * 4_000


def test_it_waits_for_a_log_that_is_not_there_yet(start, mock, nats_server):
    nats_server.kill9()
    gateway = start(mock_config(mock.url, "ok"), wait=False)
    eventually(lambda: _status(gateway, "/livez") == 200, 20)
    assert _status(gateway, "/readyz") == 503
    nats_server.start()
    gateway.wait_until_ready()


def _status(gateway, path):
    try:
        return httpx.get(f"{gateway.url}{path}").status_code
    except httpx.TransportError:
        return None


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ("[[provider]]\nnam = 1\n", {}, "ridges.toml, line 2: nam"),
        (None, {"config": "/nowhere/ridges.toml"}, "/nowhere/ridges.toml: cannot be read"),
        (None, {"run_token_key": "abc"}, "RIDGES_RUN_TOKEN_KEY is not hex"),
        (None, {"run_token_key": "abcd"}, "RIDGES_RUN_TOKEN_KEY is shorter than 32 bytes"),
        (None, {"blobs_url": "ftp://x"}, "'ftp://x' is no blob store"),
        (None, {"contents": "some"}, "RIDGES_CONTENTS"),
    ],
)
def test_bad_settings_end_with_two_and_one_line(start, mock, config, settings, words):
    gateway = start(config or mock_config(mock.url, "ok"), wait=False, **settings)
    assert gateway.process.wait(20) == 2
    (line,) = gateway.log_path.read_text().splitlines()
    assert words in line


def test_a_missing_secret_is_named(tmp_path, nats_server, mock):
    gateway = GatewayProcess(tmp_path / "g", nats_server, mock_config(mock.url, "ok"))
    del gateway.env["CANARY_KEY"]
    gateway.start(wait=False)
    assert gateway.process.wait(20) == 2
    assert "line 5: key_env: the environment variable CANARY_KEY is not set" in gateway.log_path.read_text()


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_count_calls_tokens_and_refusals(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run(max_requests=1)
    ask(gateway, run_id)
    ask(gateway, run_id)
    text = httpx.get(f"{gateway.url}/metrics").text
    assert 'ridges_gateway_calls_total{kind="chat",model="ok",outcome="made"} 1.0' in text
    assert 'ridges_gateway_tokens_total{model="ok",token_kind="output"} 10.0' in text
    assert 'ridges_gateway_refusals_total{reason="requests"} 1.0' in text
    where = 'gen_ai_operation_name="chat",gen_ai_provider_name="mock",gen_ai_request_model="ok"'
    assert f'gen_ai_client_token_usage_sum{{{where},gen_ai_token_type="output"}} 10.0' in text
    assert "ridges_gateway_calls_in_flight 0.0" in text
    for event in ("InferenceReserved", "InferenceMade", "InferenceRefused"):
        assert f'ridges_gateway_log_append_seconds_count{{event="{event}",outcome="stored"}} 1.0' in text
    assert 'ridges_gateway_provider_queue{provider="mock"} 0.0' in text


def test_a_provider_that_charges_something_else_than_its_price_here_is_seen(start, log, mock):
    gateway = start(mock_config(mock.url, "extra", "ok"))
    run_id = log.new_run()
    for model in ("extra", "extra", "ok"):
        assert chat(gateway, run_id, model, n=2).status_code == 200
    text = httpx.get(f"{gateway.url}/metrics").text
    assert 'ridges_gateway_reported_nano_usd_total{provider="mock",told_by="provider"} 2e+08' in text
    assert 'ridges_gateway_reported_nano_usd_total{provider="mock",told_by="gateway"} 140000.0' in text
    gateway.terminate()
    told = [json.loads(line) for line in gateway.log_path.read_text().splitlines() if "charges another cost" in line]
    assert [(line["provider"], line["model"], line["reported_nano_usd"]) for line in told] == [("mock", "extra", 10**8)]


def test_each_ended_call_is_one_line_in_the_log(start, log, mock):
    gateway = start(mock_config(mock.url, "ok", "status 500"))
    run_id = log.new_run()
    with gateway.client(run_id) as client:
        for model in ("ok", "status-500"):
            body = {"model": model, "messages": MESSAGES}
            client.post("/v1/chat/completions", json=body, headers={"traceparent": TRACE})
    lines = [json.loads(line) for line in gateway.log_path.read_text().splitlines()]
    good, bad = [line for line in lines if line.get("run_id") == run_id]
    made, failed = log.events(run_id, ev.InferenceMade, ev.InferenceFailed)
    assert (good["status"], good["cost_nano_usd"], good["call_id"]) == (200, made.cost_nano_usd, made.call_id)
    assert (good["model"], good["provider"], good["input_tokens"], good["output_tokens"]) == ("ok", "mock", 20, 10)
    assert (bad["status"], bad["call_id"], bad["attempts"]) == (500, failed.call_id, 1)
    assert good["latency_ms"] >= 0
    assert {made.traceparent, failed.traceparent} == {TRACE}


# --- the openai package -------------------------------------------------------------------------------------------


@contextmanager
def openai_client(gateway, run_id):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=sign_run_token(run_id, TOKEN_KEY)) as client:
        yield client


def test_the_openai_package_works_unmodified(start, log, mock):
    config = mock_config(mock.url, "ok", "tools") + mock_config(mock.url, "vector", name="second", kind="embedding")
    gateway = start(config)
    run_id = log.new_run()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    function = {"name": "f", "description": "d", "parameters": schema}
    with openai_client(gateway, run_id) as client:
        reply = client.chat.completions.create(model="ok", messages=MESSAGES, seed=7, stop=["x"])
        assert (reply.choices[0].message.content, reply.usage.total_tokens) == ("Hello there", 30)
        called = client.chat.completions.create(
            model="tools", messages=MESSAGES, tools=[{"type": "function", "function": function}]
        )
        assert called.choices[0].message.tool_calls[0].function.arguments == '{"a": 3}'
        chunks = list(client.chat.completions.create(model="ok", messages=MESSAGES, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there"
        assert all(chunk.usage is None for chunk in chunks)
        told = list(
            client.chat.completions.create(
                model="ok", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
        assert told[-1].usage.total_tokens == 30
        assert client.embeddings.create(model="vector", input="x", encoding_format="float").data[0].embedding == [
            0.5,
            -0.25,
        ]
        assert {listed.id for listed in client.models.list()} == {"ok", "tools", "vector"}
        assert client.models.retrieve("ok").id == "ok"
        with pytest.raises(openai.NotFoundError, match="not supported by Ridges for inference"):
            client.chat.completions.create(model="nope", messages=MESSAGES)
    made = log.events(run_id, ev.InferenceMade)
    assert mock.bodies[0]["seed"] == 7
    assert len({event.cost_nano_usd for event in made if event.model == "ok"}) == 1, (
        "streamed and buffered cost the same"
    )


ASKED = {
    "messages": [
        {"role": "system", "content": "s", "name": "n"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "c", "content": "\u00e9\u4f60\U0001f600"},
    ],
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "n": 2,
    "stop": ["a", "b"],
    "seed": 12345678901234567890,
    "temperature": 0.30000000000000004,
    "logit_bias": {"50256": -100},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$defs": {"a": {}}, "anyOf": []}}}],
    "unheard_of": {"deep": [1, None, {"x": True}]},
}


def test_what_is_asked_and_answered_passes_untouched_both_ways(start, log, mock):
    gateway = start(mock_config(mock.url, "extra"))
    run_id = log.new_run()
    reply = chat(gateway, run_id, "extra", **ASKED)
    assert mock.bodies[-1] == ASKED | {"model": "extra"}
    assert reply.json() == EXTRA
    text = chat(gateway, run_id, "extra", **ASKED, stream=True).text
    assert mock.bodies[-1] == ASKED | {"model": "extra", "stream": True, "stream_options": {"include_usage": True}}
    first, *_, last = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")[:-2]]
    assert first == {"id": "x", "object": "chat.completion.chunk", "created": 0} | EXTRA_CHUNK
    assert [choice["index"] for choice in last["choices"]] == [0, 1]


def test_the_openai_package_stops_at_once_when_the_budget_is_spent(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run(max_cost_nano_usd=0)
    with openai_client(gateway, run_id) as client, pytest.raises(openai.RateLimitError, match="cost limit") as caught:
        client.chat.completions.create(model="ok", messages=MESSAGES)
    assert caught.value.code == "cost_limit"
    assert len(log.events(run_id, ev.InferenceRefused)) == 1, "it was not tried again"
