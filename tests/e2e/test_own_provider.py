"""Bring your own provider: an OpenAI-compatible URL and a key in ridges.toml are all it takes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from e2e.project import Project

KEY = "sk-canary-5d2f0c1b"
PROVIDER = """
[[provider]]
name = "mine"
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
key_env = "MY_PROVIDER_KEY"

[[provider.model]]
name = "live-1"
served = "vendor/live-one"
context = 100000
max_output = 4096
input_usd = "2.00"
output_usd = "8.00"

[run]
model = "live-1"
"""
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "vendor/live-one",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "def bill():\n    return 1\n"},
        }
    ],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050},
}


class Provider(ThreadingHTTPServer):
    """An OpenAI-compatible server that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[str, dict[str, object]]] = []


class Answering(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.headers.get("Authorization", ""), body))
        content = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_configured_provider_serves_the_run_and_its_price_counts(tmp_path: Path, provider: Provider) -> None:
    project = Project(tmp_path)
    with (project.folder / "ridges.toml").open("a") as file:
        file.write(PROVIDER.format(port=provider.server_address[1]))

    command = "run -a examples/agents/minimal_agent.py -p create-energy-bill --sandbox bubblewrap --json"
    ended = project.ridges(*command.split(), env={"MY_PROVIDER_KEY": KEY})

    assert ended.code == 1, ended
    [(authorization, body)] = provider.asked
    assert (authorization, body["model"]) == (f"Bearer {KEY}", "vendor/live-one")
    assert (ended.document["model"], ended.document["requests"]) == ("live-1", 1)
    assert ended.document["cost_usd"] == "0.0024"
    assert "return 1" in str(ended.document["patch"])
    assert_key_is_nowhere(project.folder / ".ridges")


def assert_key_is_nowhere(folder: Path) -> None:
    """The key stays in the gateway's memory: no event, blob, log or database holds it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
