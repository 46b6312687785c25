"""A provider that speaks the OpenAI API, and its tables in ridges.toml."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
        self.status = 200
        self.content = json.dumps(ANSWER).encode()
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Answering(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.headers.get("Authorization", ""), body))
        self.server.may_answer.wait(timeout=120)
        with contextlib.suppress(ConnectionError):
            self.send_response(self.server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.may_answer.set()
        server.shutdown()
        thread.join()


def add_provider(project: Project, port: int, more: str = "") -> None:
    with (project.folder / "ridges.toml").open("a") as file:
        file.write(PROVIDER.format(port=port).replace("key_env", f"{more}key_env"))
