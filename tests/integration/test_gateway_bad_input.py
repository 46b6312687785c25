"""Whatever is sent: the documented status, one JSON error shape, no provider asked, nothing charged."""

import json
import socket

import pytest
from integration.gateway_world import MESSAGES, TOKEN_KEY, GatewayProcess, Log, MockProvider, ask, mock_config
from nats_process import NatsServer

from ridges.contracts import events as ev
from ridges.contracts.run_token import sign_run_token

SIZE = 17 * 1024 * 1024


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(gateway, run, log, provider)."""
    provider = MockProvider()
    nats = NatsServer(tmp_path_factory.mktemp("nats")).start()
    nats.migrate_now()
    log = Log(nats)
    config = mock_config(provider.url, "ok") + mock_config(provider.url, "vector", name="second", kind="embedding")
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats, config, read_timeout_s=2).start()
    yield gateway, log.new_run(), log, provider
    gateway.stop()
    log.close()
    nats.kill9()
    provider.close()


def chat(**changes):
    return json.dumps({"model": "ok", "messages": MESSAGES} | changes).encode()


def spoiled(body, old, new):
    assert old in body
    return body.replace(old, new)


CHAT, CONTRACT, EMBEDDINGS, EMBEDDING = "/v1/chat/completions", "/api/inference", "/v1/embeddings", "/api/embedding"
UNREAD = [b"", b"{", b"[]", b"5", b"null", b'"x"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"model": "ok"', b"\x00"]
MALFORMED = [
    *((path, body) for path in (CHAT, CONTRACT, EMBEDDINGS, EMBEDDING) for body in UNREAD),
    *((CHAT, chat(messages=wrong)) for wrong in (5, "x", None, {}, [], [5], [[]], [{"content": 5}])),
    (CHAT, spoiled(chat(), b"Say", b"S\xff\xfey")),
    (CHAT, spoiled(chat(user="name"), b"name", b"n\xe9me")),
    *((CHAT, chat(model=wrong)) for wrong in (5, None, [], {})),
    *(
        (CHAT, chat(**{limit: wrong}))
        for limit in ("max_tokens", "max_completion_tokens")
        for wrong in (0, -1, "9", 1.5)
    ),
    *((CHAT, chat(n=wrong)) for wrong in (0, -1, 129, "1", True)),
    *((CHAT, chat(stream=wrong)) for wrong in ("yes", 1, [])),
    (CHAT, chat(stream=True, stream_options=[])),
    (CHAT, chat(models=["dearer"])),
    (CHAT, chat(service_tier="priority")),
    *((EMBEDDINGS, json.dumps({"model": "vector", "input": wrong}).encode()) for wrong in (5, None, {}, [None], [{}])),
    (EMBEDDINGS, b'{"model": "vector", "input": "\xff"}'),
]


def test_a_malformed_body_is_422_and_costs_nothing(world):
    gateway, run_id, log, provider = world
    asked = len(provider.bodies)
    with gateway.client(run_id) as client:
        for path, body in MALFORMED:
            reply = client.post(path, content=body)
            assert reply.status_code == 422, (path, body[:200], reply.text)
            told = reply.json()
            assert told["detail"], (path, body[:200])
            if path.startswith("/v1/"):
                assert told["error"]["code"] in {"invalid_body", "unpriced"}
                assert told["error"]["type"] == "invalid_request_error"
    assert len(provider.bodies) == asked
    assert log.events(run_id, ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed) == []


def test_a_body_above_16_mib_is_413_and_an_8_mib_prompt_passes(world):
    gateway, run_id, log, _ = world
    with gateway.client(run_id) as client:
        reply = client.post(CHAT, content=chat(user="x" * SIZE))
    assert (reply.status_code, reply.json()["detail"]) == (413, "The body is larger than 16 MiB.")
    big = log.new_run(max_cost_nano_usd=10**12, max_tokens=10**9)
    assert ask(gateway, big, messages=[{"role": "user", "content": "x" * (SIZE // 2)}]).status_code == 200


TRICKS = [
    "//v1//models",
    "/v1//models",
    "//v1/models",
    "/v1/models/",
    "/v1/./models",
    "/v1/x/../models",
    "/v1/%6dodels",
    "/v1%2fmodels",
    "/v1/models/../models",
    "/v1/models//ok",
    "/V1/models",
    "/api//inference-models",
    "/readyz/",
    "/metrics/.",
]


@pytest.mark.parametrize("path", TRICKS)
def test_paths_count_as_they_are_written(world, path):
    gateway, run_id, _, _ = world
    status, headers, body = raw(gateway, request(path, run_id))
    assert (status, headers["content-type"]) == (404, "application/json")
    assert "as they are written" in json.loads(body)["detail"]


def test_models_with_slashes_and_escapes_in_their_names_are_found(world):
    gateway, run_id, _, _ = world
    assert raw(gateway, request("/v1/models/ok", run_id))[0] == 200
    assert raw(gateway, request("/v1/models/%6fk", run_id))[0] == 200
    assert json.loads(raw(gateway, request("/v1/models/z-ai/glm", run_id))[2])["error"]["code"] == "model_not_found"


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
UNREADABLE = {
    "garbage": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "no method": b"GARBAGE / HTTP/1.1\r\n\r\n",
    "no host": HEAD.replace(b"host: x\r\n", b"") + b"content-length: 0\r\n\r\n",
    "two hosts": HEAD + b"host: y\r\ncontent-length: 0\r\n\r\n",
    "both lengths": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    "negative length": HEAD + b"content-length: -1\r\n\r\n",
    "length that is no number": HEAD + b"content-length: 0x10\r\n\r\n",
    "a space before the colon": HEAD + b"content-length : 4\r\n\r\nabcd",
    "a header with a line feed": HEAD + b"x: a\n b\r\n\r\n",
    "bad chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("sent", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_http_is_a_json_400(world, sent):
    gateway, _, _, _ = world
    status, headers, body = raw(gateway, sent)
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/json", "close")
    assert "not HTTP/1.1" in json.loads(body)["detail"]


def test_http_1_0_needs_no_host(world):
    gateway, _, _, _ = world
    assert raw(gateway, b"GET /livez HTTP/1.0\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    "sent", [b"POST /v1/cha", HEAD + b"content-le", HEAD + b"content-length: 100\r\n\r\nabc"], ids=len
)
def test_a_request_that_does_not_arrive_is_a_json_408(world, sent):
    gateway, run_id, _, _ = world
    if sent.endswith(b"abc"):
        sent = sent.replace(b"host: x", b"host: x\r\n" + credentials(run_id))
    status, headers, body = raw(gateway, sent)
    assert (status, headers["content-type"]) == (408, "application/json")
    assert "did not arrive within 2 s" in json.loads(body)["detail"]
    assert "request failed" not in gateway.log_path.read_text()


def test_a_connection_that_says_nothing_is_closed(world):
    gateway, _, _, _ = world
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        assert connection.recv(1) == b""


def credentials(run_id):
    return f"authorization: Bearer {sign_run_token(run_id, TOKEN_KEY)}".encode()


def request(path, run_id):
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n".encode() + credentials(run_id) + b"\r\nconnection: close\r\n\r\n"


def raw(gateway, sent):
    """(status, headers, body) of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, body
