"""Providers that are slow, full, broken or wish to be left alone; rates, hedging, recording; real HTTP, real log."""

import email.utils
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from integration.gateway_world import CANARY_KEY, TEXT_CHUNK, ask, chat, eventually, mock_config

from ridges.contracts import events as ev

# --- requests per minute ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2])
def test_requests_per_minute_hold_over_all_gateways_and_say_how_long_to_wait(start, log, mock, replicas):
    gateways = [start(mock_config(mock.url, "ok")) for _ in range(replicas)]
    run_id = log.new_run(max_requests_per_minute=5)
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda number: ask(gateways[number % replicas], run_id), range(10)))
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(refused) == 5 == len(mock.bodies), [(reply.status_code, reply.text) for reply in replies]
    for reply in refused:
        assert 50 <= int(reply.headers["retry-after"]) <= 60
        assert "5 model calls within a minute" in reply.json()["detail"]
        assert "cost" not in reply.text
        assert "budget" not in reply.text
        assert "x-should-retry" not in reply.headers
    assert {event.reason for event in log.events(run_id, ev.InferenceRefused)} == {"requests"}


def test_the_rate_is_known_after_a_restart(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run(max_requests_per_minute=1)
    assert ask(gateway, run_id).status_code == 200
    gateway.stop()
    gateway.start()
    assert ask(gateway, run_id).status_code == 429


# --- patience -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ["seconds", "date", "json"])
def test_a_wish_to_be_left_alone_is_obeyed_and_passed_on(start, log, mock, how, streamed):
    value = {"seconds": "20", "date": email.utils.formatdate(time.time() + 20, usegmt=True), "json": ""}[how]
    if how == "json":
        mock.error = {"retry_after": 20}
    gateway = start(mock_config(mock.url, "status 429 " + value).replace(_public("status 429 " + value), '"m"'))
    run_id = log.new_run()
    first, second = (chat(gateway, run_id, "m", stream=streamed) for _ in range(2))
    assert (first.status_code, second.status_code) == (429, 503)
    for reply in (first, second):
        assert 15 <= int(reply.headers["retry-after"]) <= 20
    assert len(mock.bodies) == 1, "it is left alone"


def _public(served):
    return f'"{served.replace(" ", "-")}"'


# --- the breaker --------------------------------------------------------------------------------------------------


def test_a_resting_provider_gets_one_probe_at_a_time(start, log, mock):
    """Five failures open the breaker; after its rest one slow probe runs alone, and its success opens the gates."""
    mock.sick = True
    gateway = start(mock_config(mock.url, "sick 1"))
    run_id = log.new_run(max_concurrency=100)
    for _ in range(5):
        assert ask(gateway, run_id, "sick-1").status_code == 500
    assert ask(gateway, run_id, "sick-1").status_code == 503
    assert len(mock.bodies) == 5
    mock.sick = False
    time.sleep(5.1)
    with ThreadPoolExecutor(8) as pool:
        probe = pool.submit(ask, gateway, run_id, "sick-1")
        eventually(lambda: mock.open == 1)
        others = [pool.submit(ask, gateway, run_id, "sick-1") for _ in range(7)]
        assert [other.result().status_code for other in others] == [503] * 7
        assert probe.result().status_code == 200
    assert len(mock.bodies) == 6
    assert ask(gateway, run_id, "sick-1").status_code == 200


# --- slots and queue ----------------------------------------------------------------------------------------------


def test_a_full_provider_serves_runs_in_turn_and_its_queue_is_bounded(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 0.3", extra="max_concurrency = 1\nmax_queue = 6"))
    greedy, modest = log.new_run(), log.new_run()
    with ThreadPoolExecutor(10) as pool:
        many = []
        for _ in range(5):
            many.append(pool.submit(ask, gateway, greedy, "slow-0.3"))
            eventually(lambda: len(log.events(greedy, ev.InferenceReserved)) == len(many))
        one = pool.submit(ask, gateway, modest, "slow-0.3")
        assert one.result().status_code == 200
        assert sum(each.done() for each in many) <= 3, "it did not wait for all five"
        assert [each.result().status_code for each in many] == [200] * 5
        flood = [pool.submit(ask, gateway, greedy, "slow-0.3") for _ in range(10)]
        statuses = sorted(each.result().status_code for each in flood)
    assert statuses == [200] * 7 + [503] * 3, "one is served, six wait, three are told at once"
    refused = next(each.result() for each in flood if each.result().status_code == 503)
    assert refused.headers["retry-after"] == "1"


# --- timeouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "extra", "outcome", "words"),
    [
        ("slow 20", "first_token_timeout_s = 0.4", "timeout", "within 0.4 s"),
        ("thinking", "first_token_timeout_s = 0.4", "timeout", "no token within 0.4 s"),
        ("hang", "idle_timeout_s = 0.4", "cut", "silent for 0.4 s"),
        ("trickle", "timeout_s = 1", "cut", "longer than it may as a whole"),
        ("slow 20", "timeout_s = 0.4", "timeout", "within"),
    ],
    ids=["no headers", "comments are no tokens", "idle", "total", "total before the first"],
)
def test_every_timeout_of_a_stream(start, log, mock, served, extra, outcome, words):
    gateway = start(mock_config(mock.url, served, extra=extra))
    run_id = log.new_run()
    began_at = time.monotonic()
    reply = chat(gateway, run_id, served.replace(" ", "-"), stream=True)
    assert time.monotonic() - began_at < 4
    assert "[DONE]" not in reply.text
    assert reply.status_code == (200 if outcome == "cut" else 504)
    (failed,) = log.events(run_id, ev.InferenceFailed)
    assert (failed.attempts[0].outcome, failed.attempts[0].usage_source) == (outcome, "estimated")
    assert words in failed.attempts[0].detail
    eventually(lambda: mock.open == 0)


@pytest.mark.parametrize("keyed", [False, True], ids=["no key", "with a key to be masked"])
def test_a_stream_whose_lines_end_with_carriage_returns_is_read_as_it_comes(start, log, mock, keyed):
    config = mock_config(mock.url, "returns")
    gateway = start(config if keyed else config.replace('key_env = "CANARY_KEY"\n', ""))
    run_id, times, text = log.new_run(), [], ""
    began_at = time.monotonic()
    body = {"model": "returns", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with gateway.client(run_id) as client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
        for piece in reply.iter_text():
            times.append(time.monotonic() - began_at)
            text += piece
    assert json.loads(text.partition("\n\n")[0].removeprefix("data: "))["choices"] == TEXT_CHUNK["choices"]
    assert text.endswith("data: [DONE]\n\n")
    assert times[-1] - times[0] > 0.5, "held back until it was whole"
    (made,) = log.events(run_id, ev.InferenceMade)
    assert made.attempts[0].usage_source == "provider"


def test_an_address_that_swallows_packets_is_given_up_soon(start, log, mock):
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):  # Linux ignores who comes when the backlog is full
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        gateway = start(mock_config(url, "ok", extra="connect_timeout_s = 0.4"))
        run_id = log.new_run()
        began_at = time.monotonic()
        assert ask(gateway, run_id).status_code == 502
        assert time.monotonic() - began_at < 4
    (failed,) = log.events(run_id, ev.InferenceFailed)
    assert (failed.attempts[0].outcome, failed.cost_nano_usd) == ("connect_error", 0)


# --- hedging ------------------------------------------------------------------------------------------------------


def hedged(mock, slow):
    """The slow provider is asked first."""
    first = mock_config(mock.url, slow, name="slow", extra="weight = 1000000").replace(_public(slow), '"m"', 1)
    return first + mock_config(mock.url, "ok", name="fast", extra="weight = 0.000001").replace(
        'name = "ok"', 'name = "m"'
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_slow_call_is_asked_of_a_second_provider_and_both_are_charged(start, log, mock, streamed):
    gateway = start(hedged(mock, "slow 5"), hedge_after_s=0.3)
    run_id = log.new_run()
    began_at = time.monotonic()
    reply = chat(gateway, run_id, "m", stream=streamed)
    assert "Hello" in reply.text
    assert time.monotonic() - began_at < 3
    assert mock.lost.wait(2), "the slow one is let go"
    (made,) = log.events(run_id, ev.InferenceMade)
    loser, winner = made.attempts
    assert (loser.provider, loser.outcome, loser.usage_source) == ("slow", "abandoned", "estimated")
    assert loser.detail == "another provider answered first"
    assert (winner.provider, winner.outcome) == ("fast", "ok")
    assert loser.cost_nano_usd > 0
    assert made.cost_nano_usd == loser.cost_nano_usd + winner.cost_nano_usd
    (reserved,) = log.events(run_id, ev.InferenceReserved)
    assert made.cost_nano_usd <= reserved.cost_nano_usd


def test_a_fast_call_is_asked_once(start, log, mock):
    gateway = start(hedged(mock, "slow 0.05"), hedge_after_s=2)
    run_id = log.new_run()
    assert chat(gateway, run_id, "m").status_code == 200
    assert len(mock.bodies) == 1


def test_no_hedge_where_the_budget_has_room_for_one_only(start, log, mock):
    gateway = start(hedged(mock, "slow 1"), hedge_after_s=0.2)
    run_id = log.new_run(max_cost_nano_usd=5_000_000)
    assert chat(gateway, run_id, "m").status_code == 200
    assert len(mock.bodies) == 1


def test_when_both_fail_the_caller_is_told(start, log, mock):
    config = hedged(mock, "slow 1").replace('served = "ok"', 'served = "status 500"')
    gateway = start(config.replace('served = "slow 1"', 'served = "slowfail 0.6"'), hedge_after_s=0.2)
    run_id = log.new_run()
    assert chat(gateway, run_id, "m").status_code == 500
    (failed,) = log.events(run_id, ev.InferenceFailed)
    assert len(failed.attempts) == 2


# --- choice, recording, prices by time ----------------------------------------------------------------------------


def test_the_draw_is_repeatable_with_a_seed(start, log, mock):
    config = "".join(mock_config(mock.url, "ok", name=name) for name in ("a", "b", "c"))
    orders = []
    for _ in range(2):
        gateway = start(config, choice_seed=7)
        run_id = log.new_run()
        for _ in range(12):
            ask(gateway, run_id)
        orders.append([event.attempts[0].provider for event in log.events(run_id, ev.InferenceMade)])
    assert orders[0] == orders[1]
    assert len(set(orders[0])) > 1


@pytest.mark.parametrize("streamed", [False, True])
def test_the_callers_trace_is_passed_on_to_the_provider(start, log, mock, streamed):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with gateway.client(run_id) as client:
        for headers in ({"traceparent": trace}, {}):
            body = {"model": "ok", "messages": [{"role": "user", "content": "hi"}], "stream": streamed}
            assert client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    assert mock.traces == [trace, None]


def test_what_is_recorded_can_be_replayed(start, log, mock, tmp_path):
    recording = tmp_path / "made" / "recorded.jsonl"
    models = mock_config(mock.url, "ok", "tools", extra=f'record = "{recording}"')
    vectors = mock_config(mock.url, "vector", name="vectors", kind="embedding", extra=f'record = "{recording}"')
    gateway = start(models + vectors)
    run_id = log.new_run()
    tool = {"name": "f", "description": "d", "parameters": [{"type": "integer", "name": "a", "description": "d"}]}
    asked = [
        lambda gateway, run_id: ask(gateway, run_id, "ok"),
        lambda gateway, run_id: ask(gateway, run_id, "tools", tool_mode="auto", tools=[tool]),
        _embed,
    ]
    recorded = [each(gateway, run_id).json() for each in asked]
    streamed = chat(gateway, run_id, "ok", stream=True, messages=[{"role": "user", "content": "Say it in pieces."}])
    chat(gateway, run_id, "ok")
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    assert len(lines) == 4, "the same question is recorded once"
    assert CANARY_KEY not in recording.read_text()
    models = mock_config("", "ok", "tools", "vector").replace(
        'kind = "openai"\nbase_url = ""\nkey_env = "CANARY_KEY"', f'kind = "replay"\nrecordings = ["{recording}"]'
    )
    replaying = start(models.replace('served = "vector"\nkind = "chat"', 'kind = "embedding"'))
    before = len(mock.bodies)
    other_run = log.new_run()
    assert [each(replaying, other_run).json() for each in asked] == recorded
    again = chat(replaying, other_run, "ok", messages=[{"role": "user", "content": "Say it in pieces."}])
    assert again.json()["choices"][0]["message"]["content"] == "Hello there"
    assert "Hello" in streamed.text
    assert len(mock.bodies) == before
    first, second = (log.events(run, ev.InferenceMade)[0] for run in (run_id, other_run))
    assert first.usage == second.usage


def _embed(gateway, run_id):
    with gateway.client(run_id) as client:
        return client.post("/api/embedding", json={"evaluation_run_id": run_id, "model": "vector", "input": "x"})


def test_embeddings_can_be_priced_by_the_second(start, log, mock):
    config = mock_config(mock.url, "slow 0.5", kind="embedding", extra="timeout_s = 10")
    config = config.replace('input_usd = "1.5"\noutput_usd = "4"', 'second_usd = "0.002"')
    gateway = start(config.replace("max_output = 1000\n", ""))
    run_id = log.new_run()
    with gateway.client(run_id) as client:
        body = {"evaluation_run_id": run_id, "model": "slow-0.5", "input": "x"}
        assert client.post("/api/embedding", json=body).status_code == 200
        (listed,) = client.get("/api/embedding-models").json()
    assert (listed["pricing_mode"], listed["cost_usd_per_second"]) == ("per_second", 0.002)
    assert listed["cost_usd_per_million_input_tokens"] is None
    reserved, made = log.events(run_id, ev.InferenceReserved, ev.InferenceMade)
    (attempt,) = made.attempts
    assert made.cost_nano_usd == attempt.cost_nano_usd == -(-attempt.latency_ms * 2_000_000 // 1000)
    assert 1_000_000 <= made.cost_nano_usd <= reserved.cost_nano_usd == 11 * 2_000_000
