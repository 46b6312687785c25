"""The measurements, one contender at a time. Every load asserts that what was answered is what the books say."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from contenders import PATH, Contender, NotMeasured, first_answer
from native import LoadGenerator, LoadResult, MockProvider, chat_body
from process_figures import MachineWatch, cpu_s, memory_mb

SMALL, LARGE = 1_000, 256 * 1024
COMPLETE, FINISHED = '"finish_reason"', "[DONE]"
MARGIN_MS = 500.0


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How long is measured."""

    seconds: float
    """Of each load."""
    waiting_rounds: int
    """Times that 500 callers wait at once."""
    growth_calls: int
    growth_streams: int
    growth_seconds: float
    """Slow contenders get no further than that."""


FULL = Effort(seconds=6, waiting_rounds=3, growth_calls=100_000, growth_streams=10_000, growth_seconds=300)
QUICK = Effort(seconds=2, waiting_rounds=1, growth_calls=4_000, growth_streams=400, growth_seconds=15)

Figures = dict[str, float]
"""Name -> value; names are explained in ``report``."""


class Bench:
    """The parts that every contender shares."""

    def __init__(self, provider: MockProvider, load: LoadGenerator, effort: Effort) -> None:
        self.provider, self.load, self.effort = provider, load, effort

    def measure(self, contender: Contender, say: Callable[[str], None]) -> Figures:
        """All figures of one contender; those that cannot be had are absent, and ``say`` told why.

        Raises:
            NotMeasured: it does not start or does not answer.
        """
        measured = Measured(self, contender)
        measured.figures["first_answer_s"] = first_answer(contender)
        time.sleep(1)
        measured.memory("idle")
        for name in ("busy", "single", "streams", "first_token", "large", "waiting", "growth"):
            try:
                getattr(measured, name)()
            except (AssertionError, NotMeasured) as error:
                say(f"{contender.name}: {name}: {error}")
        return measured.figures


class Measured:
    """One contender under the loads."""

    def __init__(self, bench: Bench, contender: Contender) -> None:
        self._bench, self._contender = bench, contender
        self.figures: Figures = {}

    def busy(self) -> None:
        """64 callers, 1 kB in and out: each a run of its own, then all of one run."""
        self._run(chat_body(SMALL), callers=64, seconds=2)
        result = self._run(chat_body(SMALL), callers=64, figure="busy")
        self.figures["busy_per_s"] = result.per_second
        self.figures["busy_p50_ms"], self.figures["busy_p99_ms"] = result.latency_ms.p50, result.latency_ms.p99
        if len(self._contender.identities(2)) == 2:
            result = self._run(chat_body(SMALL), callers=64, runs=1, figure="one_run")
            self.figures["one_run_per_s"] = result.per_second

    def single(self) -> None:
        """One caller: what a call's latency grows by."""
        direct = self._direct(chat_body(SMALL), callers=1)
        result = self._run(chat_body(SMALL), callers=1, figure="single")
        self.figures["single_added_p50_ms"] = result.latency_ms.p50 - direct.latency_ms.p50
        self.figures["single_added_p99_ms"] = result.latency_ms.p99 - direct.latency_ms.p99

    def streams(self) -> None:
        """50-chunk streams of 16 callers: as fast as they go, then a chunk every 5 ms."""
        burst = self._run(chat_body(SMALL, stream=True), callers=16, stream=True, figure="stream_burst")
        self.figures["stream_burst_per_s"] = burst.per_second
        self._run(chat_body(SMALL, stream=True, markers="[[gap=5]]"), callers=16, stream=True, figure="stream_paced")

    def first_token(self) -> None:
        """One caller, chunks every 5 ms: a contender that holds chunks back shows here."""
        body = chat_body(SMALL, stream=True, markers="[[chunks=10]][[gap=5]]")
        direct = self._direct(body, callers=1, stream=True)
        result = self._run(body, callers=1, stream=True)
        self.figures["first_token_added_ms"] = result.first_event_ms.p50 - direct.first_event_ms.p50

    def large(self) -> None:
        """256 kB prompts of 8 callers."""
        result = self._run(chat_body(LARGE), callers=8, figure="large")
        self.figures["large_per_s"] = result.per_second

    def waiting(self) -> None:
        """500 callers whose answers take 2 s each. The first round opens the connections and does not count."""
        body = chat_body(SMALL, markers="[[delay=2000]]")
        rounds = 1 + self._bench.effort.waiting_rounds
        self._run(body, callers=500, calls=500, seconds=60)
        result = self._run(body, callers=500, calls=500 * (rounds - 1), seconds=60)
        self.figures["waiting_p50_ms"], self.figures["waiting_p99_ms"] = result.latency_ms.p50, result.latency_ms.p99

    def growth(self) -> None:
        """Memory after many calls and many abandoned streams, against after the first tenth of the calls."""
        effort, began = self._bench.effort, time.monotonic()
        calls = streams = 0
        slice_of_calls = max(500, effort.growth_calls // 50)
        sizes = []
        while calls < effort.growth_calls and time.monotonic() - began < effort.growth_seconds:
            calls += self._run(chat_body(SMALL), callers=64, calls=slice_of_calls, seconds=60).ok
            sizes.append(memory_mb(self._contender.pid or 0)[0])
        while streams < effort.growth_streams and time.monotonic() - began < effort.growth_seconds * 1.5:
            streams += self._abandon(min(1_000, effort.growth_streams))
        time.sleep(1)
        rss, _ = memory_mb(self._contender.pid or 0)
        self.figures |= {
            "growth_calls": calls,
            "growth_streams": streams,
            "growth_mb": rss - sizes[max(0, len(sizes) // 10 - 1)],
            "growth_second_half_mb": rss - sizes[len(sizes) // 2],
        }

    def memory(self, name: str) -> None:
        self.figures[f"{name}_rss_mb"], self.figures[f"{name}_pss_mb"] = memory_mb(self._contender.pid or 0)
        if self._contender.log_pid:
            self.figures[f"{name}_log_rss_mb"], _ = memory_mb(self._contender.log_pid)

    def _run(self, body: bytes, *, figure: str = "", runs: int | None = None, **options: Any) -> LoadResult:
        """One load: all answered, once, and once in the books. ``figure`` names CPU figures to take."""
        bench, contender = self._bench, self._contender
        options = {"seconds": bench.effort.seconds, "calls": 1_000_000} | options
        options["expect"] = FINISHED if options.get("stream") else COMPLETE
        identities = contender.identities(runs or options["callers"])
        posts = bench.provider.stats()["posts"]
        pids = [pid for pid in (bench.provider.pid, contender.pid, contender.log_pid) if pid]
        watch = MachineWatch(*pids)
        cpu, log_cpu = cpu_s(contender.pid), cpu_s(contender.log_pid)
        result = bench.load.run(contender.port, PATH, body, identities, **options)
        cpu, log_cpu = cpu_s(contender.pid) - cpu, cpu_s(contender.log_pid) - log_cpu
        others = watch.others_share()
        self._check(result, bench.provider.stats()["posts"] - posts)
        if figure:
            self.figures[f"{figure}_calls"] = result.ok
            self.figures[f"{figure}_cpu_s_per_1000"] = cpu / max(1, result.ok) * 1000
            self.figures[f"{figure}_others_share"] = others
            if contender.log_pid:
                self.figures[f"{figure}_log_cpu_s_per_1000"] = log_cpu / max(1, result.ok) * 1000
        return result

    def _check(self, result: LoadResult, posts: int) -> None:
        counted = f"statuses {result.statuses}, {result.errors} failed, {result.bad} without the end"
        trouble = result.errors + result.bad + result.unfinished
        assert result.ok > 0 == trouble, f"{result.ok} calls answered, {result.unfinished} not ended, {counted}"
        assert posts == result.ok, f"{result.ok} calls were answered, the provider saw {posts}"
        self._contender.answered(result.ok)

    def _abandon(self, count: int) -> int:
        """Streams whose callers leave after the third event."""
        bench, contender = self._bench, self._contender
        body = chat_body(SMALL, stream=True, markers="[[gap=20]]")
        identities = contender.identities(64)
        options: dict[str, Any] = {"callers": 64, "calls": count, "seconds": 60, "stream": True, "leave": 3}
        result = bench.load.run(contender.port, PATH, body, identities, **options)
        assert result.ok == count, f"of {count} streams {result.ok} began"
        bench.provider.wait_until_idle()
        contender.left(count)
        return count

    def _direct(self, body: bytes, **options: Any) -> LoadResult:
        seconds = self._bench.effort.seconds / 2
        options = {"seconds": seconds, "calls": 1_000_000} | options
        return self._bench.load.run(self._bench.provider.port, PATH, body, [], **options)
