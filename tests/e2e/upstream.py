"""A provider outside of the system: answers from recordings, counts its calls, and can hold one of them back."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROVIDER = """
[[provider]]
name = "upstream"
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"

[[provider.model]]
name = "upstream-1"
context = 200000
max_output = 16384
input_usd = "0.25"
output_usd = "1.25"

[run]
model = "upstream-1"
"""
HOLD_S = 120


class Upstream(ThreadingHTTPServer):
    """An OpenAI-compatible server with one recorded conversation."""

    daemon_threads = True

    def __init__(self, recording: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        lines = (json.loads(line) for line in recording.read_text("utf-8").splitlines())
        self.answers = {line["turn"]: line for line in lines}
        self.calls = 0
        self.held, self._let_go = threading.Event(), threading.Event()
        self._hold_at: int | None = None
        self._counting = threading.Lock()

    @property
    def config(self) -> str:
        """What makes it the provider, in ridges.toml."""
        return PROVIDER.format(port=self.server_address[1])

    def begin(self, hold_at: int | None) -> None:
        """Count from nothing; the first call of this turn is held back until ``let_go``."""
        self.calls, self._hold_at = 0, hold_at
        self.held.clear()
        self._let_go.clear()

    def let_go(self) -> None:
        self._let_go.set()

    def called(self, turn: int) -> None:
        with self._counting:
            self.calls += 1
            holds, self._hold_at = turn == self._hold_at, None if turn == self._hold_at else self._hold_at
        if holds:
            self.held.set()
            self._let_go.wait(HOLD_S)


class _Answering(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        self.server.called(turn)
        recorded = self.server.answers[turn]
        usage = recorded["usage"]
        message = {"role": "assistant", "content": None, **recorded["message"]}
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        answer = {
            "id": f"chatcmpl-{turn}",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": reason, "message": message}],
            "usage": usage | {"total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]},
        }
        content = json.dumps(answer).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the gateway is gone

    def log_message(self, *_: object) -> None:
        pass
