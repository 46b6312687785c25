"""Figures of the ledger: rebuild, archive, re-price, live projection, append, memory. Totals are asserted.

python tests/bench/ledger/figures.py [EVENTS] [--lean]     with the source folders on PYTHONPATH (./just sync does that)

``--lean``: events of some 260 bytes, and only rebuilds and the live projection. Every rate is given by wall clock and
by CPU of the measuring process, and ratios are between figures of this run.
"""

import asyncio
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import psutil  # noqa: E402
from integration.ledger_process import LedgerProcess  # noqa: E402
from nats_process import NatsServer  # noqa: E402
from sample_log import OFFERS, SampleLog  # noqa: E402

from ridges.chassis.blob_store import FileBlobStore  # noqa: E402
from ridges.chassis.clock import SystemClock  # noqa: E402
from ridges.chassis.jetstream import open_event_store  # noqa: E402
from ridges.chassis.jetstream.bulk import last_position, raw_events  # noqa: E402
from ridges.chassis.jetstream.place import Place  # noqa: E402
from ridges.chassis.jetstream.wire import Wire  # noqa: E402
from ridges.chassis.ports import Recorded  # noqa: E402
from ridges.contracts import events as ev  # noqa: E402
from ridges.contracts.codec import decode, encode  # noqa: E402
from ridges.contracts.usage import TokenPrice  # noqa: E402
from ridges.ledger.passes.rebuild import rebuild  # noqa: E402
from ridges.ledger.passes.sealing import rebuild_from_archive, seal_log, sealed_segments  # noqa: E402
from ridges.ledger.projections.apply import Projections  # noqa: E402
from ridges.ledger.projections.compare import first_difference  # noqa: E402
from ridges.ledger.projections.fold import Fold, Sheet  # noqa: E402
from ridges.ledger.projections.schema import open_projections, open_reader  # noqa: E402
from ridges.ledger.projector import Projector  # noqa: E402
from ridges.ledger.queries import Queries  # noqa: E402
from ridges.ledger.stream import Hub  # noqa: E402

LEAN = "--lean" in sys.argv
EVENTS = next((int(word) for word in sys.argv[1:] if word.isdigit()), 200_000)
LIVE_EVENTS, LIVE_RATE = 5_000, 500
TRAFFIC = Path(__file__).with_name("steady_traffic.py")


def quiet(_progress):
    """Nobody looks."""


def say(what, figure, remark=""):
    print(f"{what:<58}{figure:>22}   {remark}", flush=True)


@contextmanager
def measured(what, count=EVENTS):
    """Prints the rate by wall clock and by CPU."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    rates = {}
    yield rates
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rates |= {"wall_s": wall, "cpu_s": cpu, "per_cpu_s": count / cpu}
    say(what, f"{count / wall:,.0f} /s", f"{count / cpu:,.0f} per CPU second, {1e6 * cpu / count:.2f} us CPU each")


def fill(place, log):
    """Publish the log quickly: one acknowledgement for 2,000 messages. The contents."""
    contents = []
    with Wire(place) as wire:
        block = []
        for number, (subject, event_id, content) in enumerate(log.contents(), 1):
            contents.append(content)
            headers = f"NATS/1.0\r\nNats-Msg-Id: {event_id}\r\n\r\n".encode()
            reply = wire._inbox + b".f " if number % 2_000 == 0 else b""
            size = b"%d %d" % (len(headers), len(headers) + len(content))
            block.append(b"HPUB %s %s%s\r\n%s%s\r\n" % (subject.encode(), reply, size, headers, content))
            if reply:
                wire.socket.sendall(b"".join(block))
                block = []
                while not (line := wire._line()).startswith(b"MSG "):
                    wire.other(line)
                wire._take(int(line.rsplit(b" ", 1)[1]))
        wire.socket.sendall(b"".join(block))
    while last_position(place) < len(contents):
        time.sleep(0.05)
    return contents


def assert_totals(path, log):
    with closing(open_reader(path)) as connection:
        total = Queries(connection).costs("provider").total
        runs = connection.execute("SELECT count(*), sum(requests), sum(cost_nano_usd) FROM runs").fetchone()
    assert (total.cost_nano_usd, total.usage, total.requests) == (log.cost_nano_usd, log.usage, log.calls)
    assert runs[1:] == (log.calls, log.cost_nano_usd), runs


def memory_limit(contents):
    """How fast decoding and folding are when nothing is read or written."""
    gc.disable()
    with measured("decode only, in memory") as _:
        for content in contents:
            decode(content)
    with measured("decode + fold, in memory") as rates:
        fold = Fold(Sheet)
        for position, content in enumerate(contents, 1):
            fold.fold(position, decode(content))
    gc.enable()
    return rates["per_cpu_s"]


def rebuilds(folder, place, log, limit):
    store = FileBlobStore(folder / "blobs")
    with measured("JetStream, bulk read only"):
        assert sum(map(len, raw_events(place, 0, EVENTS))) == EVENTS
    with measured("rebuild from JetStream") as from_log:
        rebuild(raw_events(place, 0, EVENTS), folder / "a", total=EVENTS, report=quiet)
    assert_totals(folder / "a", log)
    with measured("seal the archive"):
        seal_log(raw_events(place, 0, EVENTS), [], store=store, total=EVENTS, now=datetime.now(UTC), report=quiet)
    segments = sealed_segments(store)
    size = sum(segment.events.size for segment in segments), sum(segment.replay.size for segment in segments)
    say("archive, bytes an event", f"{size[0] / EVENTS:.0f} + {size[1] / EVENTS:.0f}", "events + replay part")
    with measured("rebuild from the archive (replay part)") as replayed:
        rebuild_from_archive(segments, [], folder / "b", store=store, total=EVENTS, report=quiet)
    assert_totals(folder / "b", log)
    with measured("rebuild from the archive (whole events)"):
        rebuild_from_archive(segments, [], folder / "c", store=store, total=EVENTS, report=quiet, whole_events=True)
    difference = first_difference(folder / "a", folder / "b") or first_difference(folder / "a", folder / "c")
    assert difference is None, difference
    with measured("prove that two files of tables are the same"):
        assert first_difference(folder / "a", folder / "b") is None
    say("archive replay / decode + fold in memory", f"{replayed['per_cpu_s'] / limit:.2f}", "target 0.60")
    say("JetStream rebuild / decode + fold in memory", f"{from_log['per_cpu_s'] / limit:.2f}")
    say("size of the tables", f"{(folder / 'a').stat().st_size / 1e6:,.0f} MB")


def repricing(path, log):
    even = TokenPrice(input=200_000_000, output=700_000_000, cached_input=100_000_000, reasoning=700_000_000)
    for what, prices in (
        ("re-price, the recorded prices (one not whole)", {f"{p}/{served}": price for p, served, price in OFFERS}),
        ("re-price, prices of whole nano-USD a token", {f"{p}/{served}": even for p, served, _ in OFFERS}),
    ):
        published = ev.PriceListPublished(
            id="x", run_id="prices", time=datetime.now(UTC), price_list="x", prices=prices, source="x",
            effective_at=datetime.now(UTC),
        )  # fmt: skip
        with closing(open_reader(path)) as connection, measured(f"{what}, inferences", log.calls) as rates:
            report = Queries(connection).reprice(published, None)
        assert report.recorded_nano_usd == log.cost_nano_usd
        if "recorded" in what:
            assert report.repriced_nano_usd == log.cost_nano_usd
        say("  so 1,000,000 inferences take", f"{1e6 * rates['cpu_s'] / log.calls:.2f} s CPU")


def live_batches(folder, contents):
    recorded = [Recorded(position=n, event=decode(content)) for n, content in enumerate(contents[:50_000], 1)]
    for size in (1, 10, 500):
        some = recorded[: size * 5_000]
        what = f"live projection, transactions of {size}"
        with closing(Projections(open_projections(folder / f"live-{size}"))) as live, measured(what, len(some)):
            for start in range(0, len(some), size):
                live.apply(some[start : start + size])


async def lag(folder, server):
    """Append at a steady rate while a rebuild runs; lag from publishing to what readers of the tables see."""
    child = subprocess.Popen(  # noqa: ASYNC220 - it is only started and waited for
        [sys.executable, "-m", "ridges.ledger.passes", "rebuild", "--tables", str(folder / "beside")],
        env=os.environ
        | {
            "RIDGES_NATS_URL": server.url,
            "RIDGES_NATS_MONITOR_URL": server.monitor_url,
            "RIDGES_BLOBS_URL": f"file://{folder}/blobs",
            "RIDGES_STATE_DIR": str(folder / "state"),
        },
        stdout=subprocess.DEVNULL,
    )
    times = folder / "times"
    traffic = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, str(TRAFFIC), server.url, str(LIVE_EVENTS), str(LIVE_RATE), str(times), *["lean"] * LEAN],
        stdin=subprocess.PIPE,
    )
    async with open_event_store(server.url, name="bench", monitor_url=server.monitor_url, allow_lossy=True) as store:
        await store.ready()
        live = Projections(open_projections(folder / "a"))
        projector = Projector(store, live, Hub(), path="a")
        following = asyncio.create_task(projector.run())
        await projector.reached(EVENTS, 30)
        applied: list[float] = []
        """When readers had each event."""

        async def watch():
            while len(applied) < LIVE_EVENTS:
                async with projector._moved:
                    await projector._moved.wait_for(lambda: projector.position > EVENTS + len(applied))
                applied.extend([time.perf_counter()] * (projector.position - EVENTS - len(applied)))

        watching = asyncio.create_task(watch())
        cpu = time.process_time()
        traffic.stdin.write(b"go\n")
        traffic.stdin.flush()
        await asyncio.wait_for(watching, 120)
        cpu = time.process_time() - cpu
        rebuilt = "all the time" if child.poll() is None else "at the start"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        live.close()
    traffic.wait()
    child.wait()
    published = array("d", times.read_bytes())
    lags = sorted(there - sent for there, sent in zip(applied, published, strict=True))
    say(
        f"lag at {LIVE_RATE}/s, p50 / p99, publish to readers",
        f"{1e3 * lags[len(lags) // 2]:.1f} / {1e3 * lags[int(len(lags) * 0.99)]:.1f} ms",
        f"a rebuild ran beside {rebuilt}; target p99 50 ms",
    )
    say("  CPU an event, the projector's process alone", f"{1e6 * cpu / LIVE_EVENTS:.1f} us", "target 15 us")


async def appends(folder):
    server = NatsServer(folder / "sync").start()
    clock = SystemClock()
    try:
        await server.migrate()
        async with open_event_store(server.url, name="bench", monitor_url=server.monitor_url) as store:
            await store.ready()
            bare, ours = [], []
            for number in range(600):
                event = ev.InferenceReserved(
                    id=clock.new_id(), run_id=f"r{number}", time=clock.now(), call_id="c", model="m", cost_nano_usd=1,
                    tokens=1,
                )  # fmt: skip
                start = time.perf_counter()
                if number % 2:
                    await store.append(event.run_id, [event])
                    ours.append(time.perf_counter() - start)
                else:
                    headers = {"Nats-Msg-Id": event.id}
                    subject = f"ev.{event.run_id}.InferenceReserved"
                    await store.nc.jetstream().publish(subject, encode(event), headers=headers)
                    bare.append(time.perf_counter() - start)
    finally:
        server.kill9()
    p50 = statistics.median(ours), statistics.median(bare)
    say(
        "append p50 / bare publish p50, synced",
        f"{1e3 * p50[0]:.2f} / {1e3 * p50[1]:.2f} ms",
        f"{p50[0] / p50[1]:.2f} x; target 1.2",
    )


async def memory(folder, server):
    process = LedgerProcess(server, folder / "ledger", RIDGES_ALLOW_LOSSY_LOG="true")
    state = folder / "ledger" / "state"
    state.mkdir(parents=True)
    (folder / "b").rename(state / "projections.sqlite")
    process.start()
    try:
        await process.until("/readyz", lambda answer: answer.status_code == 200)
        for path in (
            "/v1/runs?limit=500",
            "/v1/costs?by=run",
            "/v1/costs?by=token_kind",
            "/v1/reprice?price_list=vendored",
        ):
            start = time.perf_counter()
            assert (await process.get(path)).status_code == 200
            say(f"  GET {path}", f"{1e3 * (time.perf_counter() - start):.0f} ms")
        rss = psutil.Process(process._process.pid).memory_info().rss
        say("memory of the ledger", f"{rss / 1e6:.0f} MB", "target 200 MB with 1,000,000 events and 20,000 runs")
    finally:
        process.kill9()


def main():
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), SampleLog(EVENTS, lean=LEAN)
        server = NatsServer(folder / "nats", sync="2m").start()
        server.migrate_now()
        place = Place(url=server.url, name="bench", allow_lossy=True)
        try:
            contents = fill(place, log)
            say("events / runs / inferences", f"{EVENTS:,} / {log.runs:,} / {log.calls:,}")
            say("mean bytes of an event", f"{sum(map(len, contents)) / EVENTS:.0f}", f"load {os.getloadavg()[0]:.1f}")
            limit = memory_limit(contents)
            live_batches(folder, contents)
            contents = None
            gc.collect()
            rebuilds(folder, place, log, limit)
            if not LEAN:
                repricing(folder / "a", log)
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                say("peak memory of this process", f"{peak / 1e3:.0f} MB", "it holds the whole log in memory at first")
                asyncio.run(memory(folder, server))
            asyncio.run(lag(folder, server))
        finally:
            server.kill9()
        if not LEAN:
            asyncio.run(appends(folder))
    say("load of the machine in the end", f"{os.getloadavg()[0]:.1f}", f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
