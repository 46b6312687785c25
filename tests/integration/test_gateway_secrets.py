"""A provider's key and the run tokens never come out: in answers, errors, blobs, events, recordings or the log."""

import base64
import json
import re

import httpx
import pytest
from integration.gateway_world import CANARY_KEY, TOKEN_KEY, chat, mock_config

from ridges.contracts.run_token import sign_run_token


def test_secrets_stay_inside(start, log, mock):
    """The mock repeats the key in error texts and in streams; key and run tokens must not come out anywhere."""
    models = ("ok", "status 500", "status 401", "cut", "echo", "spell")
    gateway = start(mock_config(mock.url, *models, extra='record = "made.jsonl"'), log_level="debug")
    run_id = log.new_run()
    answers = [chat(gateway, run_id, model).text for model in ("ok", "status-500", "status-401")]
    answers += [chat(gateway, run_id, model, stream=True).text for model in ("ok", "status-500", "cut", "echo")]
    assert answers[-1].count("your key is ***") == 2
    assert "the key *** has expired" in answers[-1]
    spelt = chat(gateway, run_id, "spell", stream=True).text
    assert _said(spelt).endswith("My key: sk-***.")
    answers += [spelt, _said(spelt)]
    answers.append(httpx.get(f"{gateway.url}/metrics").text)
    assert mock.keys == {f"Bearer {CANARY_KEY}"}
    gateway.terminate()
    stored = [path.read_bytes().decode(errors="replace") for path in blob_files(gateway.folder)]
    stored += [_said(content) for content in stored]
    stored.append((gateway.folder / "made.jsonl").read_text())
    places = [*answers, *stored, gateway.log_path.read_text(), *(repr(event) for event in log.events(run_id))]
    token = sign_run_token(run_id, TOKEN_KEY)
    for secret in (CANARY_KEY, token, TOKEN_KEY.hex()):
        assert not [place for place in places if secret in place]


def blob_files(folder):
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


def _said(stream):
    """The texts of all the chunks in it, joined."""
    return "".join(re.findall(r'"delta": ?{"content": ?"([^"]*)"', stream))


def _escaped(key, every=1):
    return "".join(f"\\u{ord(letter):04x}" if at % every == 0 else letter for at, letter in enumerate(key))


SPELLED = {
    "escaped": _escaped(CANARY_KEY),
    "escaped in part": _escaped(CANARY_KEY, 3),
    "escaped twice": json.dumps(_escaped(CANARY_KEY))[1:-1],
    "upper-case escapes": _escaped(CANARY_KEY).replace("d", "D").replace("f", "F"),
    "hex": CANARY_KEY.encode().hex(),
    "upper-case hex": CANARY_KEY.encode().hex().upper(),
    "percent": "".join(f"%{ord(letter):02X}" for letter in CANARY_KEY),
    "base64 of a header": base64.b64encode(f"Bearer {CANARY_KEY}".encode()).decode(),
    "base64": base64.b64encode(CANARY_KEY.encode()).decode(),
    "base64, one byte later": base64.urlsafe_b64encode(f":{CANARY_KEY}:".encode()).decode(),
    "base64, two bytes later": base64.b64encode(f"u:{CANARY_KEY}".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_an_encoded_key_stays_inside(start, log, mock, spelling):
    statuses = ("200", "400", "401", "500")
    models = [f"says {status}" for status in statuses]
    gateway = start(mock_config(mock.url, *models, extra='record = "made.jsonl"'), log_level="debug")
    run_id, mock.says = log.new_run(), SPELLED[spelling]
    with pytest.raises(AssertionError):
        _assert_gone(mock.says)
    for status in statuses:
        for stream in (False, True):
            answer = chat(gateway, run_id, f"says-{status}", stream=stream)
            assert answer.status_code == int(status)
            assert "***" in answer.text, "the key was there"
            assert "bad key: " in answer.text or "my key: " in answer.text, "and nothing else is missing"
            _assert_gone(answer.text)
    gateway.terminate()
    for path in (*blob_files(gateway.folder), gateway.folder / "made.jsonl", gateway.log_path):
        _assert_gone(path.read_bytes().decode(errors="replace"))
    for event in log.events(run_id):
        _assert_gone(repr(event))


def _assert_gone(text):
    """The key cannot be read in it, however it was encoded."""
    readings = [text]
    for _ in range(3):
        readings.append(re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), readings[-1]))
    readings.append(re.sub(r"%([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text))
    readings += [bytes.fromhex(found).decode("latin-1") for found in re.findall(r"(?:[0-9a-fA-F]{2}){8,}", text)]
    for found in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        for skipped in range(4):
            some = found[skipped:]
            whole = some[: len(some) // 4 * 4]
            readings.append(base64.b64decode(whole, altchars=b"-_").decode("latin-1"))
    assert not [reading for reading in readings if CANARY_KEY[3:-3] in reading]
