"""``Idempotency-Key``: one upstream call, one bill, equal answers; real HTTP, real log, restarts."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from integration.gateway_world import CLOCK, MESSAGES, ask, chat, eventually, mock_config
from msgspec.structs import replace

from ridges.contracts import events as ev


@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_key_is_one_call_one_bill_and_equal_answers_also_after_a_restart(start, log, mock, streamed):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    answers = [chat(gateway, run_id, key="k 1", stream=streamed) for _ in range(2)]
    gateway.stop()
    gateway.start()
    answers.append(chat(gateway, run_id, key="k 1", stream=streamed))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].content == answers[1].content == answers[2].content
    assert answers[0].headers["content-type"] == answers[2].headers["content-type"]
    assert b"Hello" in answers[0].content
    assert len(mock.bodies) == 1
    reserved, made = log.events(run_id, ev.InferenceReserved, ev.InferenceMade)
    assert (reserved.idempotency_key, reserved.call_id) == ("k 1", made.call_id)


def test_every_route_takes_keys(start, log, mock):
    gateway = start(mock_config(mock.url, "ok") + mock_config(mock.url, "vector", name="second", kind="embedding"))
    run_id = log.new_run()
    contract = {"evaluation_run_id": run_id, "model": "vector", "input": "x"}
    bodies = {
        "/api/inference": {"evaluation_run_id": run_id, "model": "ok", "temperature": 0, "messages": MESSAGES},
        "/api/embedding": contract,
        "/v1/embeddings": {"model": "vector", "input": "x"},
    }
    with gateway.client(run_id) as client:
        for path, body in bodies.items():
            first, second = (client.post(path, json=body, headers={"Idempotency-Key": path}) for _ in range(2))
            assert first.status_code == 200
            assert first.content == second.content
    assert len(mock.bodies) == 3


@pytest.mark.parametrize("streamed", [False, True])
def test_duplicates_at_the_same_time_wait_for_the_first(start, log, mock, streamed):
    gateway = start(mock_config(mock.url, "slow 0.5"))
    run_id = log.new_run()
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(chat, gateway, run_id, "slow-0.5", key="k", stream=streamed) for _ in range(8)]
        answers = [each.result() for each in asking]
    assert len({answer.content for answer in answers}) == 1
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len(mock.bodies) == len(log.events(run_id, ev.InferenceMade)) == 1


def test_two_gateways_make_one_call(start, log, mock, tmp_path):
    blobs = (tmp_path / "shared").as_uri()
    gateways = [start(mock_config(mock.url, "slow 0.5"), blobs_url=blobs) for _ in range(2)]
    run_id = log.new_run()
    for gateway in gateways:
        ask(gateway, run_id, "nope")
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(chat, gateways[number % 2], run_id, "slow-0.5", key="k") for number in range(8)]
        answers = [each.result() for each in asking]
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.content for answer in answers}) == 1
    assert len(mock.bodies) == len(log.events(run_id, ev.InferenceMade)) == 1


def test_another_body_under_the_key_is_refused(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 0.3"))
    run_id, other_run = log.new_run(), log.new_run()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(chat, gateway, run_id, "slow-0.3", key="k")
        eventually(lambda: mock.open)
        refusals = [chat(gateway, run_id, "slow-0.3", key="k", seed=1)]
        assert first.result().status_code == 200
    refusals.append(chat(gateway, run_id, "slow-0.3", key="k", seed=1))
    gateway.stop()
    gateway.start()
    refusals.append(chat(gateway, run_id, "slow-0.3", key="k", stream=True))
    for refusal in refusals:
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert chat(gateway, other_run, "slow-0.3", key="k", seed=1).status_code == 200, "keys belong to their run"
    assert len(mock.bodies) == 2


def test_a_call_that_failed_frees_its_key(start, log, mock):
    config = mock_config(mock.url, "status 500")
    gateway = start(config)
    run_id = log.new_run()
    assert [chat(gateway, run_id, "status-500", key="k").status_code for _ in range(2)] == [500, 500]
    assert len(mock.bodies) == 2
    gateway.stop()
    (gateway.folder / "ridges.toml").write_text(config.replace('served = "status 500"', 'served = "ok"'))
    gateway.start()
    assert chat(gateway, run_id, "status-500", key="k").status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_a_caller_that_leaves_and_asks_again_gets_the_answer_and_pays_once(start, log, mock, streamed):
    gateway = start(mock_config(mock.url, "slow 2"))
    run_id = log.new_run()
    body = {"model": "slow-2", "messages": MESSAGES} | ({"stream": True} if streamed else {})
    with gateway.client(run_id) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": "k"}, timeout=0.3)
    again = chat(gateway, run_id, "slow-2", key="k", **({"stream": True} if streamed else {}))
    assert (again.status_code, "Hello" in again.text) == (200, True)
    assert len(mock.bodies) == len(log.events(run_id, ev.InferenceMade)) == 1
    assert log.events(run_id, ev.InferenceFailed) == []


def test_an_answered_key_is_answered_although_the_budget_is_spent(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run(max_requests=1)
    assert chat(gateway, run_id, key="k").status_code == 200
    assert chat(gateway, run_id).status_code == 429
    assert chat(gateway, run_id, key="k").status_code == 200


def test_without_contents_an_answered_key_is_a_clear_409(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 0.3"), contents="none")
    run_id = log.new_run()
    with ThreadPoolExecutor(2) as pool:
        together = [pool.submit(chat, gateway, run_id, "slow-0.3", key="k") for _ in range(2)]
        assert [each.result().status_code for each in together] == [200, 200], "those in flight share the answer"
    later = chat(gateway, run_id, "slow-0.3", key="k")
    assert (later.status_code, later.json()["error"]["code"]) == (409, "reply_not_kept")
    assert "RIDGES_CONTENTS=none" in later.json()["detail"]
    assert len(mock.bodies) == 1


def test_a_key_is_answered_after_a_thousand_others_also_after_a_restart(start, log, mock):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run(max_requests=10_000)
    first = chat(gateway, run_id, key="first")
    reserved, made = log.events(run_id, ev.InferenceReserved, ev.InferenceMade)
    for number in range(1_100):
        changes = {"run_id": run_id, "call_id": f"call-{number}"}
        key = {"idempotency_key": f"key-{number}"}
        log.append(run_id, replace(reserved, id=CLOCK.new_id(), **changes, **key))
        log.append(run_id, replace(made, id=CLOCK.new_id(), **changes))
    for _ in range(2):
        assert chat(gateway, run_id, key="first").content == first.content
        again = chat(gateway, run_id, key="first", seed=1)
        assert (again.status_code, again.json()["error"]["code"]) == (422, "idempotency_key_reused")
        gateway.stop()
        gateway.start()
    assert len(mock.bodies) == 1


@pytest.mark.parametrize("key", ["x" * 256, "sch\u00f6n".encode(), b"a\tb"])
def test_a_bad_key_is_422(start, log, mock, key):
    gateway = start(mock_config(mock.url, "ok"))
    run_id = log.new_run()
    with gateway.client(run_id) as client:
        body = {"model": "ok", "messages": MESSAGES}
        response = client.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": key})
    assert response.status_code == 422
    assert mock.bodies == []
