"""kill -9 under load and a log that is away: every call is in the log once, nothing stays open, calls fail closed."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from integration.gateway_world import ask, chat, eventually, mock_config, open_calls

from ridges.contracts import events as ev

CALLS = 1_000
AWAY_S = 60.0
ENDINGS = (ev.InferenceMade, ev.InferenceFailed, ev.InferenceSettled)


@pytest.mark.timeout(300)
def test_kill_minus_nine_during_a_thousand_calls(start, log, mock):
    """Killed twice; callers try again as agents do. What reached the provider is in the log once, the rest too."""
    gateway = start(mock_config(mock.url, "slow 0.05", extra="max_concurrency = 200"))
    runs = [log.new_run(max_cost_nano_usd=10**12, max_requests=10_000, max_concurrency=1_000) for _ in range(4)]

    def until_answered(number):
        for _ in range(1_000):
            try:
                reply = chat(gateway, runs[number % 4], "slow-0.05", user=str(number))
            except httpx.TransportError:
                reply = None
            if reply is not None and reply.status_code != 503:  # which it says until it has found the log
                return reply.status_code
            time.sleep(0.2)
        return None

    with ThreadPoolExecutor(24) as pool:
        asking = [pool.submit(until_answered, number) for number in range(CALLS)]
        for reached in (300, 700):
            eventually(lambda reached=reached: len(mock.bodies) >= reached, 120)
            gateway.process.kill()
            gateway.process.wait()
            gateway.start()
        assert [each.result() for each in asking] == [200] * CALLS
    eventually(lambda: not any(open_calls(log, run_id) for run_id in runs), 20)
    reserved = {event.call_id: event for run in runs for event in log.events(run, ev.InferenceReserved)}
    endings = [event for run in runs for event in log.events(run, *ENDINGS)]
    assert Counter(event.call_id for event in endings) == dict.fromkeys(reserved, 1), "each call ends once"
    assert len(reserved) >= len(mock.bodies) >= CALLS, "what reached the provider is in the log"
    lost = [event for event in endings if isinstance(event, ev.InferenceFailed)]
    assert len(lost) == len(reserved) - len([event for event in endings if isinstance(event, ev.InferenceMade)])
    assert 1 <= len(lost) <= 2 * 24
    for event in lost:
        (attempt,) = event.attempts
        assert (event.status, attempt.usage_source, attempt.outcome) == (500, "estimated", "abandoned")
        assert 0 < event.cost_nano_usd <= reserved[event.call_id].cost_nano_usd
    assert {body["user"] for body in mock.bodies} == {str(number) for number in range(CALLS)}


def test_what_a_crash_left_open_is_settled_by_estimate_and_the_budget_is_free_again(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 20", "ok"))
    run_id = log.new_run(max_cost_nano_usd=8_000_000, max_concurrency=1)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(ask, gateway, run_id, "slow-20")
        eventually(lambda: mock.open)
        gateway.process.kill()
        gateway.process.wait()
        assert isinstance(lost.exception(), httpx.TransportError)
    assert len(open_calls(log, run_id)) == 1
    gateway.start()
    (failed,) = eventually(lambda: log.events(run_id, ev.InferenceFailed), 10)
    (reserved,) = log.events(run_id, ev.InferenceReserved)
    assert failed.call_id == reserved.call_id
    assert failed.cost_nano_usd < reserved.cost_nano_usd
    assert ask(gateway, run_id).status_code == 200
    assert "max_tokens" not in mock.bodies[-1], "nothing is set aside any more"
    gateway.process.kill()
    gateway.process.wait()
    gateway.start()
    assert ask(gateway, run_id).status_code == 200
    assert len(log.events(run_id, ev.InferenceFailed)) == 1


def test_a_key_that_a_crash_held_is_free_again(start, log, mock):
    gateway = start(mock_config(mock.url, "slow 2"))
    run_id = log.new_run()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(chat, gateway, run_id, "slow-2", key="k")
        eventually(lambda: mock.open)
        gateway.process.kill()
        gateway.process.wait()
        assert isinstance(lost.exception(), httpx.TransportError)
    gateway.start()
    eventually(lambda: not open_calls(log, run_id), 10)
    assert chat(gateway, run_id, "slow-2", key="k").status_code == 200


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wait_s", [0, 120])
def test_with_the_log_away_calls_fail_or_wait_in_bounded_memory(start, log, mock, nats_server, wait_s):
    """Calls and streams that were on their way end as they would have; new ones are refused, or wait, as configured."""
    gateway = start(mock_config(mock.url, "ok", "slow 4"), log_wait_s=wait_s)
    run_id = log.new_run(max_cost_nano_usd=10**12, max_requests=100_000, max_concurrency=1_000)
    long_prompt = [{"role": "user", "content": "x" * 10_000}]
    with ThreadPoolExecutor(40) as pool:
        assert {reply.status_code for reply in pool.map(lambda _: ask(gateway, run_id), range(100))} == {200}
        on_their_way = [pool.submit(chat, gateway, run_id, "slow-4", stream=number % 2 == 0) for number in range(8)]
        eventually(lambda: mock.open == 8, 20)
        process = psutil.Process(gateway.process.pid)
        before, asked = process.memory_info().rss, len(mock.bodies)
        nats_server.kill9()
        until = time.monotonic() + AWAY_S

        def asked_meanwhile(_):
            statuses = Counter()
            while time.monotonic() < until:
                reply = ask(gateway, run_id, timeout_s=AWAY_S + 60, messages=long_prompt)
                statuses[reply.status_code] += 1
            return statuses

        meanwhile = [pool.submit(asked_meanwhile, number) for number in range(32)]
        for reply in on_their_way:
            assert reply.result().status_code == 200
            assert "Hello" in reply.result().text
        time.sleep(max(0.0, until - time.monotonic()))
        assert len(mock.bodies) == asked, "no provider is asked"
        assert process.memory_info().rss - before < 40 * 1024 * 1024
        nats_server.start()
        statuses = sum((each.result() for each in meanwhile), Counter())
    assert set(statuses) == ({200} if wait_s else {503})
    eventually(lambda: ask(gateway, run_id).status_code == 200, 30)
    eventually(lambda: not open_calls(log, run_id), 30)
    made = log.events(run_id, ev.InferenceMade)
    assert len([event for event in made if event.model == "slow-4"]) == 8, "what was on its way is settled"
