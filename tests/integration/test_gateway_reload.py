"""SIGHUP: ridges.toml is read again without dropping a call; a broken file is refused and the old one stays."""

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from integration.gateway_world import MockProvider, ask, chat, eventually, mock_config

from ridges.contracts import events as ev


def reload(gateway, config):
    """Write the file, send SIGHUP, wait until it was taken or refused."""
    before = reloads(gateway)
    (gateway.folder / "ridges.toml").write_text(config)
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(gateway) != before)


def reloads(gateway):
    """(taken, refused)."""
    text = httpx.get(f"{gateway.url}/metrics").text
    counts = dict(re.findall(r'ridges_gateway_reloads_total{outcome="(\w+)"} ([\d.]+)', text))
    return float(counts.get("taken", 0)), float(counts.get("refused", 0))


@pytest.fixture
def other_mock():
    provider = MockProvider()
    yield provider
    provider.close()


def test_new_calls_use_the_new_file_and_calls_in_flight_end_as_they_began(start, log, mock, other_mock):
    gateway = start(mock_config(mock.url, "slow 2", "ok"))
    run_id = log.new_run()
    with ThreadPoolExecutor(4) as pool:
        buffered = [pool.submit(ask, gateway, run_id, "slow-2") for _ in range(2)]
        streamed = [pool.submit(chat, gateway, run_id, "slow-2", stream=True) for _ in range(2)]
        eventually(lambda: mock.open == 4)
        reload(gateway, mock_config(other_mock.url, "fresh", name="other").replace('"1.5"', '"3"'))
        assert ask(gateway, run_id, "ok").status_code == 404, "no longer served"
        assert ask(gateway, run_id, "fresh").status_code == 200
        assert [each.result().status_code for each in buffered] == [200, 200]
        assert all("[DONE]" in each.result().text for each in streamed)
    made = log.events(run_id, ev.InferenceMade)
    assert {(event.model, event.attempts[0].provider, event.attempts[0].price.input) for event in made} == {
        ("slow-2", "mock", 1_500_000_000),
        ("fresh", "other", 3_000_000_000),
    }
    assert reloads(gateway) == (1, 0)


def test_no_call_is_dropped_by_many_reloads_under_load(start, log, mock):
    config = mock_config(mock.url, "ok", "slow 0.05")
    gateway = start(config)
    run_id = log.new_run(max_concurrency=100)
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, gateway, run_id, "slow-0.05") for _ in range(80)]
        for number in range(5):
            reload(gateway, config.replace("key_env", f"weight = {number + 1}\nkey_env"))
        assert [each.result().status_code for each in asking] == [200] * 80
    assert len(log.events(run_id, ev.InferenceMade)) == 80


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("max_output", "max_ouput"), ", line 13: max_ouput: Object contains unknown field"),
        (('input_usd = "1.5"\n', ""), "input_usd: missing for 'ok'"),
        (('"CANARY_KEY"', '"NO_SUCH_KEY"'), "line 5: key_env: the environment variable NO_SUCH_KEY is not set"),
        (('kind = "openai"', 'kind = "openai"\nrecord = "/proc/no/such"'), "cannot be recorded to"),
        (("[[provider]]", "[[provider"), "at line 1"),
    ],
    ids=["unknown key", "no price", "no secret", "unwritable recording", "no toml"],
)
def test_a_broken_file_is_refused_with_its_line_and_the_old_one_stays(start, log, mock, change, words):
    good = mock_config(mock.url, "ok")
    gateway = start(good)
    run_id = log.new_run()
    reload(gateway, good.replace(*change))
    assert reloads(gateway) == (0, 1)
    (line,) = [line for line in gateway.log_path.read_text().splitlines() if "refused" in line]
    assert words in line
    assert "Traceback" not in line
    assert ask(gateway, run_id).status_code == 200
    reload(gateway, good)
    assert reloads(gateway) == (1, 1)
    assert ask(gateway, run_id).status_code == 200


def test_recordings_are_read_again(start, log, tmp_path):
    recordings = tmp_path / "recorded.jsonl"
    line = {"conversation": "Say hello.", "turn": 0, "model": "m", "usage": {"prompt_tokens": 1}}
    recordings.write_text(json.dumps(line | {"message": {"content": "first"}}))
    config = (
        f'[[provider]]\nname = "r"\nkind = "replay"\nrecordings = ["{recordings}"]\n[[provider.model]]\nname = "m"\n'
        'context = 1000\nmax_output = 100\ninput_usd = "1"\noutput_usd = "1"\n'
    )
    gateway = start(config)
    run_id = log.new_run()
    assert ask(gateway, run_id, "m").json()["content"] == "first"
    recordings.write_text(json.dumps(line | {"message": {"content": "second"}}))
    reload(gateway, config)
    assert ask(gateway, run_id, "m").json()["content"] == "second"
