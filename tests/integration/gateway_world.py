"""A real gateway process in front of a real nats-server, and a provider that misbehaves on request."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
from nats_process import NatsServer, free_port

from ridges.chassis.clock import SystemClock
from ridges.chassis.jetstream import open_event_store
from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.limits import ModelLimits, RunLimits
from ridges.contracts.run_token import sign_run_token

TOKEN_KEY = bytes(range(32))
CANARY_KEY = "sk-canary-7f3a"
CLOCK = SystemClock()
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
MESSAGES = [{"role": "user", "content": "Say hello."}]
START_TIMEOUT_S = 20
LOGPROBS = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]}
EXTRA = {
    "id": "x",
    "object": "chat.completion",
    "system_fingerprint": "fp_1",
    "choices": [
        {"index": n, "message": {"role": "assistant", "content": "a", "annotations": []}, "finish_reason": "stop"}
        | {"logprobs": LOGPROBS, "native_finish_reason": "eos"}
        for n in (0, 1)
    ],
    "usage": USAGE | {"cost": 0.1},
    "unheard_of": [{"a": None}],
}
"""An answer with all that some provider adds."""
EXTRA_CHUNK = {
    "choices": [{"index": 0, "delta": {"content": "a", "thinking": "hm"}, "logprobs": LOGPROBS, "finish_reason": None}],
    "unheard_of": [{"a": None}],
}


FLOOD = 40_000
"""Events of 1 kB: more than all buffers on the way hold."""


TEXT_CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hello there"}, "finish_reason": None}]}
FINISH_CHUNK = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


class MockProvider:
    """OpenAI-compatible. What it does stands in the served model's name: ``status 503``, ``slow 2``, ``cut`` …"""

    def __init__(self):
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.traces: list[str | None] = []
        self.open = 0
        self.error: dict = {}
        """What error bodies say beside their message."""
        self.says = ""
        """What the model ``says STATUS`` has in its answer: part of a JSON text, as it stands on the wire."""
        self.sick = False
        self.lost = threading.Event()
        """Set when a caller went away in the middle of a slow answer."""
        self.flooded = 0
        """Events of a ``flood`` that could be sent."""
        self.lost_at = 0.0
        """When that was noticed, monotonic."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.bodies.append(body)
                owner.keys.add(self.headers.get("Authorization"))
                owner.traces.append(self.headers.get("traceparent"))
                owner.open += 1
                try:
                    owner.answer(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    owner.lost_at = time.monotonic()
                    owner.lost.set()
                finally:
                    owner.open -= 1

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, http, body):
        does, _, value = body["model"].partition(" ")
        if does == "returns":
            return self.stream_with_returns(http)
        if does == "says":
            return self.say(http, int(value), streamed=bool(body.get("stream")))
        return self.answer_as(does, value, http, body)

    def answer_as(self, does, value, http, body):
        if does == "status":
            status, _, retry_after = value.partition(" ")
            return reply(http, int(status), self.error | {"error": {"message": f"it hurts, {CANARY_KEY}"}}, retry_after)
        if does == "sick" and self.sick:
            return reply(http, 500, {"error": {"message": "sick"}})
        if does == "slowfail":
            self.wait_unless_left(http, float(value))
            return reply(http, 500, {"error": {"message": "in vain"}})
        if does == "garbage":
            return reply(http, 200, "<html>")
        if does == "extra" and not body.get("stream"):
            return reply(http, 200, EXTRA)
        if does == "halfway":
            return self.break_off(http, streamed=bool(body.get("stream")))
        if does in ("slow", "sick"):
            self.wait_unless_left(http, float(value))
        if http.path.endswith("/embeddings"):
            rows = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
            return reply(http, 200, {"object": "list", "data": rows, "usage": {"prompt_tokens": 4, "total_tokens": 4}})
        if body.get("stream"):
            return self.stream(http, does)
        message = {"role": "assistant", "content": "Hello there"}
        if does == "tools":
            message = {"role": "assistant", "content": None, "tool_calls": [tool_call(body)]}
        if does == "bash":
            message = {"role": "assistant", "content": "I run it.", "tool_calls": [bash_call(body)]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return reply(http, 200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE})

    def say(self, http, status, *, streamed):
        if status != 200:
            return reply(http, status, f'{{"error": {{"message": "bad key: {self.says}."}}}}')
        said = f'{{"role": "assistant", "content": "my key: {self.says}."}}'
        message = "delta" if streamed else "message"
        answer = f'{{"choices": [{{"index": 0, "{message}": {said}, "finish_reason": "stop"}}]}}'
        return reply(http, 200, f"data: {answer}\n\ndata: [DONE]\n\n" if streamed else answer)

    def wait_unless_left(self, http, seconds):
        """Sleep, but notice within 10 ms when the caller closes the connection."""
        http.connection.setblocking(False)
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                try:
                    if http.connection.recv(1) == b"":
                        raise ConnectionResetError
                except BlockingIOError:
                    time.sleep(0.01)
        finally:
            http.connection.setblocking(True)

    def break_off(self, http, *, streamed):
        """Close the connection after the headers: of a buffered answer in the middle of its text."""
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
        http.send_header("Content-Length", "100000")
        http.end_headers()
        if not streamed:
            http.wfile.write(b'{"choices": [{"message": {"content": "' + b"word " * 100)
        http.close_connection = True

    def stream(self, http, does):
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream")
        http.send_header("Connection", "close")
        http.end_headers()
        http.close_connection = True
        if does == "thinking":
            http.wfile.write(b": still thinking\n\n")
            http.wfile.flush()
            self.wait_unless_left(http, 30)
        if does == "extra":
            ends = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in (0, 1)]
            http.wfile.write(event(EXTRA_CHUNK) + event({"choices": ends}))
            http.wfile.write(event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n")
            return
        for text in ("Hello", " there"):
            http.wfile.write(event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}))
        http.wfile.flush()
        if does == "flood":
            for number in range(FLOOD):
                delta = {"content": f"{number} " + "x" * 1000}
                http.wfile.write(event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
                self.flooded = number + 1
        if does == "hang":
            self.wait_unless_left(http, 30)
        if does == "echo":
            self.echo_key(http)
        if does == "spell":
            for letters in ("My key: ", *CANARY_KEY, "."):
                http.wfile.write(event({"choices": [{"index": 0, "delta": {"content": letters}}]}))
                http.wfile.flush()
        while does == "trickle":
            http.wfile.write(event({"choices": [{"index": 0, "delta": {"content": " more"}, "finish_reason": None}]}))
            http.wfile.flush()
            self.wait_unless_left(http, 0.1)
        if does != "cut":
            http.wfile.write(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
            http.wfile.write(event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n")

    def stream_with_returns(self, http):
        """Lines end with carriage returns, and the events come apart."""
        http.send_response(200)
        http.send_header("Content-Type", "text/event-stream")
        http.end_headers()
        http.close_connection = True
        for chunk in (TEXT_CHUNK, FINISH_CHUNK, {"choices": [], "usage": USAGE}):
            http.wfile.write(event(chunk).replace(b"\n", b"\r"))
            http.wfile.flush()
            self.wait_unless_left(http, 0.3)
        http.wfile.write(b"data: [DONE]\r\r")

    @staticmethod
    def echo_key(http):
        """The key in a stream: whole, over two writes that arrive apart, and in an error event."""
        told = event({"choices": [{"index": 0, "delta": {"content": f"your key is {CANARY_KEY}"}}]})
        broken = event({"error": {"message": f"the key {CANARY_KEY} has expired"}})
        middle = told.index(CANARY_KEY.encode()) + len(CANARY_KEY) // 2
        for piece in (told, told[:middle], told[middle:], broken):
            http.wfile.write(piece)
            http.wfile.flush()
            time.sleep(0.1)


def reply(http, status, body, retry_after=""):
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    http.send_response(status)
    http.send_header("Content-Type", "application/json")
    http.send_header("Content-Length", str(len(content)))
    if retry_after:
        http.send_header("Retry-After", retry_after)
    http.end_headers()
    http.wfile.write(content)


def event(chunk):
    return (
        b"data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 0} | chunk).encode() + b"\n\n"
    )


def tool_call(body):
    """Calls the first tool with a value for each of its parameters."""
    values = {"boolean": True, "integer": 3, "number": 0.5, "string": "s", "array": [1, "x"], "object": {"k": None}}
    function = body["tools"][0]["function"]
    arguments = {name: values[schema["type"]] for name, schema in function["parameters"]["properties"].items()}
    return {
        "id": "c1",
        "type": "function",
        "function": {"name": function["name"], "arguments": json.dumps(arguments)},
    }


def bash_call(body):
    """The commands of a small agent's run: one that works, then the one that submits."""
    commands = ["echo made it > made.txt", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat made.txt"]
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    function = {"name": "bash", "arguments": json.dumps({"command": commands[min(turn, 1)]})}
    return {"id": f"c{turn}", "type": "function", "function": function}


class Log:
    """The event store for tests without a loop."""

    def __init__(self, nats: NatsServer):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._context = open_event_store(nats.url, name="test", monitor_url=nats.monitor_url)
        self.store = self.call(self._context.__aenter__())
        self.call(self.store.ready())

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def close(self):
        self.call(self._context.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def append(self, run_id, *events):
        self.call(self.store.append(run_id, list(events)))

    def events(self, run_id, *kinds):
        found = [recorded.event for recorded in self.call(self.store.read_run(run_id))]
        return [event for event in found if not kinds or isinstance(event, kinds)]

    def new_run(self, state="running_agent", **limits) -> str:
        """A run in the given state."""
        run_id = str(uuid4())
        self.append(run_id, *lifecycle(run_id, state, **limits))
        return run_id


def lifecycle(run_id, state, **limits):
    blob = ref_to(b"x", "text/plain")

    def make(kind, **fields):
        return kind(id=CLOCK.new_id(), run_id=run_id, time=CLOCK.now(), **fields)

    exit_facts = ev.ExitFacts(exit_code=0)
    everything = {
        "pending": make(
            ev.RunRequested,
            problem_id="p",
            problem_digest="d",
            statement=blob,
            workspace=blob,
            agent=blob,
            agent_name="agent.py",
            limits=RunLimits(model=ModelLimits(**limits)),
        ),
        "running_agent": make(ev.AgentStarted, attempt=1, manager="m", sandbox="process"),
        "initializing_eval": make(
            ev.PatchProduced, attempt=1, patch=blob, partial=False, cause=None, log=blob, exit=exit_facts
        ),
        "running_eval": make(ev.EvaluationStarted, evaluation_id="e", manager="m", sandbox="process"),
        "finished": make(ev.TestsFinished, evaluation_id="e", verdict="resolved", tests=()),
    }
    if state == "error":
        return [everything["pending"], make(ev.RunCancelled, reason="enough")]
    states = list(everything)
    return [everything[name] for name in states[: states.index(state) + 1]]


class GatewayProcess:
    """``python -m ridges.gateway`` with its own folder."""

    def __init__(self, folder: Path, nats: NatsServer, config: str, /, **settings):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "ridges.toml").write_text(config)
        self.log_path = folder / "gateway.log"
        self.env = os.environ | {
            "RIDGES_CONFIG": str(folder / "ridges.toml"),
            "RIDGES_RUN_TOKEN_KEY": TOKEN_KEY.hex(),
            "RIDGES_BLOBS_URL": (folder / "blobs").resolve().as_uri(),
            "RIDGES_NATS_URL": nats.url,
            "RIDGES_NATS_MONITOR_URL": nats.monitor_url,
            "RIDGES_HTTP_PORT": str(self.port),
            "CANARY_KEY": CANARY_KEY,
        }
        self.env |= {f"RIDGES_{name.upper()}": str(value) for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait=True) -> "GatewayProcess":
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ridges.gateway"], env=self.env, stdout=log, stderr=log
            )
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log_path.read_text()[-3000:]
            try:
                if httpx.get(f"{self.url}/readyz", verify=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log_path.read_text()[-3000:]}")

    def terminate(self, timeout=20) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def client(self, run_id=None, *, timeout_s=30, **options) -> httpx.Client:
        headers = {"Authorization": f"Bearer {sign_run_token(run_id, TOKEN_KEY)}"} if run_id else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, verify=False, **options)


def mock_config(url, *served, name="mock", kind="chat", extra=""):
    """A provider table whose public model names are the served ones with dashes."""
    tables = [f'[[provider]]\nname = "{name}"\nkind = "openai"\nbase_url = "{url}"\nkey_env = "CANARY_KEY"\n{extra}\n']
    tables += [
        f'[[provider.model]]\nname = "{model.replace(" ", "-")}"\nserved = "{model}"\nkind = "{kind}"\n'
        'context = 100000\nmax_output = 1000\ninput_usd = "1.5"\noutput_usd = "4"\n'
        for model in served
    ]
    return "\n".join(tables)


def ask(gateway, run_id, model="ok", *, timeout_s=30, **fields):
    body = {"evaluation_run_id": run_id, "model": model, "temperature": 0, "messages": MESSAGES} | fields
    with gateway.client(run_id, timeout_s=timeout_s) as client:
        return client.post("/api/inference", json=body)


def chat(gateway, run_id, model="ok", *, key=None, **fields):
    headers = {"Idempotency-Key": key} if key else {}
    with gateway.client(run_id) as client:
        body = {"model": model, "messages": MESSAGES} | fields
        return client.post("/v1/chat/completions", json=body, headers=headers)


def eventually(check, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not (result := check()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return result


def open_calls(log, run_id):
    """Calls that are reserved and not settled."""
    reserved = {event.call_id for event in log.events(run_id, ev.InferenceReserved)}
    return reserved - {event.call_id for event in log.events(run_id, ev.InferenceMade, ev.InferenceFailed)}
