"""Our own gateway with everything on: identity, limits, reservation, cost and durable events of real runs."""

import asyncio
import http.client
import sys
import time
from pathlib import Path
from uuid import uuid4

import msgspec
from contenders import NotMeasured, Process
from nats_process import NatsServer, free_port

from ridges.chassis.clock import SystemClock
from ridges.chassis.jetstream import open_event_store
from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.limits import ModelLimits, RunLimits
from ridges.contracts.run_token import sign_run_token

TOKEN_KEY = bytes(range(32))
PROVIDER_KEY = "sk-bench-v1-" + "0123456789abcdef" * 4
"""As long as real ones are: short ones take longer to look for in answers."""
CLOCK = SystemClock()
UNLIMITED = ModelLimits(max_cost_nano_usd=10**17, max_requests=10**9, max_tokens=10**15, max_concurrency=1000)
"""Every limit is checked, none is reached: a refused call would be a cheap call."""
SETTLED_WITHIN_S = 20.0
AT_ONCE = 32
"""Atomic appends in flight; nats-server takes at most 50 of a stream."""
LOGLESS = Path(__file__).parent / "logless_gateway.py"

CONFIG = """
[[provider]]
name = "mock"
kind = "openai"
base_url = "{base_url}"
key_env = "BENCH_PROVIDER_KEY"
max_concurrency = 4096

[[provider.model]]
name = "mock"
context = 1000000
max_output = 4096
input_usd = "0.25"
cached_input_usd = "0.03"
output_usd = "1.25"
"""


class Counts(msgspec.Struct, frozen=True):
    """Events in the log."""

    reserved: int = 0
    made: int = 0
    failed: int = 0
    other: int = 0


class RidgesGateway:
    """Variants differ in settings only."""

    def __init__(
        self, name: str, folder: Path, provider_url: str, *, sync: bool = True, contents: str = "full"
    ) -> None:
        self.name, self.folder = name, folder
        self.port, self.pid, self.log_pid = free_port(), None, None
        self.process = Process(folder)
        self._provider_url, self._sync, self._contents = provider_url, sync, contents
        synced = "sync_interval always" if sync else "sync_interval 2m (allow_lossy)"
        self.described = f"log: nats-server, {synced}; contents: {contents}; identity, limits, reservation, cost on"
        self.counted, self._expected = Counts(), Counts()

    def prepare(self) -> None:
        self.nats = NatsServer(self.folder / "nats", sync="always" if self._sync else None).start()
        self.nats.migrate_now()
        self.log_pid = self.nats.pid
        (self.folder / "ridges.toml").write_text(CONFIG.format(base_url=self._provider_url))

    def start(self) -> None:
        self.pid = self.process.start([sys.executable, "-m", "ridges.gateway"], self._environment())

    def identities(self, count: int) -> list[str]:
        """As many runs whose agent is at work."""
        run_ids = [str(uuid4()) for _ in range(count)]
        asyncio.run(self._start_runs(run_ids))
        return [f"Authorization: Bearer {sign_run_token(run_id, TOKEN_KEY)}" for run_id in run_ids]

    def answered(self, calls: int) -> None:
        expected = self._expected
        self._expected = Counts(reserved=expected.reserved + calls, made=expected.made + calls, failed=expected.failed)
        self._compare()

    def left(self, calls: int) -> None:
        """Of abandoned streams some were complete when the caller left: made or failed, but each of them once."""
        before = self.counted
        counted = self._settled_counts(before.reserved + calls)
        assert counted.reserved == before.reserved + calls, (self.name, counted, calls)
        assert counted.made + counted.failed == counted.reserved, (self.name, counted)
        self.counted = self._expected = counted

    def stop(self) -> None:
        self.process.stop()
        if hasattr(self, "nats"):
            self.nats.stop()

    def _environment(self) -> dict[str, str]:
        return {
            "RIDGES_CONFIG": str(self.folder / "ridges.toml"),
            "RIDGES_RUN_TOKEN_KEY": TOKEN_KEY.hex(),
            "RIDGES_BLOBS_URL": (self.folder / "blobs").resolve().as_uri(),
            "RIDGES_NATS_URL": self.nats.url,
            "RIDGES_NATS_MONITOR_URL": self.nats.monitor_url,
            "RIDGES_ALLOW_LOSSY_LOG": str(not self._sync).lower(),
            "RIDGES_CONTENTS": self._contents,
            "RIDGES_HTTP_PORT": str(self.port),
            "RIDGES_LOG_LEVEL": "warning",
            "BENCH_PROVIDER_KEY": PROVIDER_KEY,
        }

    def _compare(self) -> None:
        counted = self._settled_counts(self._expected.reserved)
        assert counted == self._expected, f"{self.name}: the log holds {counted}, expected {self._expected}"
        self.counted = counted

    def _settled_counts(self, reserved: int) -> Counts:
        """The counts once every reservation is settled."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while True:
            counted = asyncio.run(self._count())
            settled = counted.made + counted.failed == counted.reserved >= reserved
            if settled or time.monotonic() > deadline:
                return counted
            time.sleep(0.1)

    async def _count(self) -> Counts:
        totals: dict[str, int] = {}
        async with self.nats.client() as nc:
            for name in ("InferenceReserved", "InferenceMade", "InferenceFailed", "InferenceRefused"):
                totals[name] = await _messages_on(nc, f"ev.*.{name}")
        return Counts(
            reserved=totals["InferenceReserved"],
            made=totals["InferenceMade"],
            failed=totals["InferenceFailed"],
            other=totals["InferenceRefused"],
        )

    async def _start_runs(self, run_ids: list[str]) -> None:
        monitor = self.nats.monitor_url
        async with open_event_store(
            self.nats.url, name="bench", monitor_url=monitor, allow_lossy=not self._sync
        ) as store:
            await store.ready()
            for first in range(0, len(run_ids), AT_ONCE):
                some = run_ids[first : first + AT_ONCE]
                await asyncio.gather(*(store.append(run_id, started_run(run_id)) for run_id in some))


class RidgesWithoutLog(RidgesGateway):
    """The same gateway with a log that keeps nothing: shows what the log costs."""

    def __init__(self, name: str, folder: Path, provider_url: str) -> None:
        super().__init__(name, folder, provider_url, contents="none")
        self.described = "no log (appends succeed and are forgotten); contents: none; identity, limits, cost on"
        self._base = 0.0

    def prepare(self) -> None:
        (self.folder / "ridges.toml").write_text(CONFIG.format(base_url=self._provider_url))

    def start(self) -> None:
        self.pid = self.process.start([sys.executable, str(LOGLESS)], self._environment())

    def identities(self, count: int) -> list[str]:
        """Every run counts as started; see ``logless_gateway``."""
        return [f"Authorization: Bearer {sign_run_token(str(uuid4()), TOKEN_KEY)}" for _ in range(count)]

    def answered(self, calls: int) -> None:
        made = self._made()
        assert made == self._base + calls, (
            f"{self.name}: metrics say {made - self._base:g} calls, {calls} were answered"
        )
        self._base = made

    def left(self, calls: int) -> None:
        self._base = self._made()

    def stop(self) -> None:
        self.process.stop()

    def _environment(self) -> dict[str, str]:
        self.nats = NatsServer(self.folder / "nats")  # never started; only for the addresses in the settings
        return super()._environment()

    def _made(self) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        wanted = [line for line in lines if line.startswith("ridges_gateway_calls_total") and 'outcome="made"' in line]
        if not wanted:
            raise NotMeasured("the gateway's metrics do not count calls")
        return sum(float(line.rpartition(" ")[2]) for line in wanted)


def started_run(run_id: str) -> list[ev.Event]:
    """A run whose agent may call models."""
    blob = ref_to(b"x", "text/plain")
    requested = ev.RunRequested(
        id=CLOCK.new_id(),
        run_id=run_id,
        time=CLOCK.now(),
        problem_id="bench",
        problem_digest=blob.digest,
        statement=blob,
        workspace=blob,
        agent=blob,
        agent_name="agent.py",
        limits=RunLimits(model=UNLIMITED),
    )
    started = ev.AgentStarted(
        id=CLOCK.new_id(), run_id=run_id, time=CLOCK.now(), attempt=1, manager="bench", sandbox="process"
    )
    return [requested, started]


async def _messages_on(nc, subject: str) -> int:
    """Number of stored events; the server pages subjects by 100,000."""
    total, offset = 0, 0
    while True:
        request = msgspec.json.encode({"subjects_filter": subject, "offset": offset})
        reply = msgspec.json.decode((await nc.request("$JS.API.STREAM.INFO.EVENTS", request, timeout=10)).data)
        subjects = reply["state"].get("subjects") or {}
        total, offset = total + sum(subjects.values()), offset + len(subjects)
        if not subjects or offset >= reply.get("total", 0):
            return total
