"""A service as a process: signals, exit codes, and what stands on stderr."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from nats_process import free_port

SERVICE = Path(__file__).with_name("small_service.py")


class Service:
    def __init__(self, **settings):
        self.port = settings.get("HTTP_PORT") or free_port()
        environ = {f"RIDGES_{name}": str(value) for name, value in ({"HTTP_PORT": self.port} | settings).items()}
        self.process = subprocess.Popen(
            [sys.executable, str(SERVICE)],
            env={"PATH": "/usr/bin:/bin"} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def until_up(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/livez")  # a connection alone is taken before signals are
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise AssertionError(f"did not start: {self.end()}")

    def end(self, number=None):
        """(exit code, stdout, stderr)."""
        if number is not None:
            self.process.send_signal(number)
        try:
            stdout, stderr = self.process.communicate(timeout=30)
        finally:
            self.process.kill()
        return self.process.returncode, stdout, stderr


@pytest.fixture
def start():
    started = []

    def starting(**settings):
        started.append(Service(**settings))
        return started[-1]

    yield starting
    for service in started:
        service.process.kill()
        service.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_well(start, number):
    service = start().until_up()
    assert service.get("/livez")[0] == 200
    code, stdout, _ = service.end(number)
    assert (code, stdout) == (0, "drained\nwork cancelled\n")


def test_http_answers_while_it_drains(start):
    service = start(DRAIN_S=1.5).until_up()
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert service.get("/livez")[0] == 200
    assert service.end()[:2] == (0, "drained\nwork cancelled\n")


def test_a_drain_that_does_not_end_is_cut(start):
    service = start(DRAIN_S=60, DRAIN_TIMEOUT_S=0.3).until_up()
    began = time.monotonic()
    code, stdout, stderr = service.end(signal.SIGTERM)
    assert (code, stdout) == (0, "work cancelled\n")
    assert "the drain did not end in time" in stderr
    assert time.monotonic() - began < 30, "half of the drain"


def test_a_second_interrupt_ends_it_at_once(start):
    service = start(DRAIN_S=60).until_up()
    deadline = time.monotonic() + 30  # half of the drain
    while service.process.poll() is None and time.monotonic() < deadline:
        service.process.send_signal(signal.SIGINT)  # two that come at once count as one
        time.sleep(0.3)
    code, _, stderr = service.end()
    assert code == 130
    assert "interrupted twice" in stderr


def test_a_crash_of_background_work_ends_the_service(start):
    service = start(CRASH_AFTER_S=0.2)
    code, stdout, stderr = service.end()
    assert (code, stdout) == (1, "drained\n")
    [crash] = [json.loads(line) for line in stderr.splitlines() if "crashed" in line]
    assert crash["error"] == "the work broke"


def test_an_app_that_cannot_start_ends_the_service(start):
    code, _, stderr = start(BAD_STARTUP="true").end()
    assert code == 1
    assert "cannot start" in stderr


def test_a_taken_port_is_one_clear_line(start):
    service = start().until_up()
    code, stdout, stderr = start(HTTP_PORT=service.port).end()
    assert code == 3
    assert stdout == ""
    assert re.fullmatch(rf"cannot listen on 127.0.0.1:{service.port}: .*RIDGES_HTTP_PORT\n", stderr)


def test_bad_settings_are_one_clear_line(start):
    code, _, stderr = start(DRAIN_S="long").end()
    assert code == 2
    assert stderr.startswith("RIDGES_DRAIN_S is 'long'")
    assert stderr.count("\n") == 1


def test_without_its_log_a_service_lives_but_is_not_ready(start):
    service = start(NATS_URL=f"nats://127.0.0.1:{free_port()}").until_up()
    assert service.get("/livez")[0] == 200
    status, body = service.get("/readyz")
    assert status == 503
    assert "start it" in json.loads(body)["failing"]["log"]
    assert service.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("is_there", [False, True], ids=["away", "there"])
def test_a_password_in_the_url_of_the_log_is_told_to_nobody(start, nats_server, is_there):
    nats_server.migrate_now()
    port = nats_server.port if is_there else free_port()
    service = start(
        NATS_URL=f"nats://ledger:canary-7f3a@127.0.0.1:{port}", NATS_MONITOR_URL=nats_server.monitor_url
    ).until_up()
    deadline = time.monotonic() + 20
    while (service.get("/readyz")[0] == 200) is not is_there and time.monotonic() < deadline:
        time.sleep(0.05)
    status, told = service.get("/readyz")
    assert status == (200 if is_there else 503)
    told += service.end(signal.SIGTERM)[2]
    assert f"127.0.0.1:{port}" in told
    assert "canary" not in told


def test_a_wrong_log_is_one_clear_line(start, nats_server):
    code, _, stderr = start(NATS_URL=nats_server.url).end()
    assert code == 4
    assert "RIDGES_NATS_MONITOR_URL" in stderr.splitlines()[-1]


def test_a_log_that_is_replaced_ends_the_service_with_the_reason(start, nats_server):
    service = start(NATS_URL=nats_server.url, NATS_MONITOR_URL=nats_server.monitor_url).until_up()
    assert service.get("/readyz")[0] == 200
    nats_server.kill9()
    (nats_server.folder / "store").rename(nats_server.folder / "lost")
    nats_server.start()
    nats_server.migrate_now()
    code, _, stderr = service.end()
    assert code == 4
    assert "was replaced" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


def test_requests_in_flight_are_answered_when_the_log_is_refused(start, nats_server):
    service = start(NATS_URL=nats_server.url, NATS_MONITOR_URL=nats_server.monitor_url).until_up()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(service.get("/slow")))
    asking.start()
    time.sleep(0.2)
    nats_server.kill9()
    (nats_server.folder / "store").rename(nats_server.folder / "lost")
    nats_server.start()
    nats_server.migrate_now()
    code, _, stderr = service.end()
    asking.join()
    [(status, body)] = answers
    assert (code, status, "Traceback" in stderr) == (4, 503, False), (stderr, body)
    assert "was replaced" in json.loads(body)["detail"]
