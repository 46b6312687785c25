"""The relay and its mirror: whatever breaks, message n of the stream EVENTS is event n of KurrentDB."""

import asyncio
import random

import pytest
from conformance.event_store_suite import cancelled, collecting, eventually, started
from kurrent_double.cluster import KurrentDouble
from kurrent_world import RunningRelay, declare_mirror, mirror_of, opened, relaying
from nats_process import NatsServer
from tcp_proxy import TcpProxy

from ridges.chassis.kurrent.names import LOG_STREAM
from ridges.chassis.ports import EventStoreUnavailable, LogMismatch

EVENTS = 1_500


@pytest.fixture
async def server(tmp_path):
    server = NatsServer(tmp_path / "nats").start()
    yield server
    server.kill9()


@pytest.fixture
async def kurrentdb(server):
    async with KurrentDouble() as kurrentdb:
        await declare_mirror(server, kurrentdb.url)
        yield kurrentdb


def source_of(kurrentdb):
    """What the mirror must hold."""
    ours = [stored for stored in kurrentdb.log if stored.stream.startswith("run-")]
    return [(n, f"ev.{e.stream.removeprefix('run-')}.{e.event_type}", e.data) for n, e in enumerate(ours, 1)]


async def fill(kurrentdb, count, *, pause_every=0):
    for number in range(count):
        if number % 7 == 3:
            await kurrentdb.put("orders-1", "OrderPlaced")
        await kurrentdb.put(f"run-r{number % 20}", "RunCancelled", b'{"n":%d}' % number)
        if pause_every and number % pause_every == 0:
            await asyncio.sleep(0.005)


async def mirror_has(server, count, timeout_s=60):
    async with asyncio.timeout(timeout_s), server.client() as nc:
        while (await nc.jetstream().stream_info("EVENTS")).state.last_seq < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def crash_at_random(relay, dice):
    """One relay's many lives; cancelled wherever it is at that moment."""
    crashes = 0
    try:
        while True:
            await asyncio.sleep(dice.random() * 0.12)
            await relay.crash()
            crashes += 1
            await relay.start()
    except asyncio.CancelledError:
        return crashes


class TestIdenticalMirror:
    async def test_with_two_racing_relays_that_crash_at_random(self, server, kurrentdb):
        dice = random.Random(5)
        relays = [RunningRelay(server, kurrentdb.url) for _ in range(2)]
        for relay in relays:
            await relay.start()
        lives = [asyncio.create_task(crash_at_random(relay, dice)) for relay in relays]
        await fill(kurrentdb, EVENTS, pause_every=5)
        await mirror_has(server, EVENTS)
        for life in lives:
            life.cancel()
        crashes = sum(await asyncio.gather(*lives))
        for relay in relays:
            await relay.crash()
        assert await mirror_of(server) == source_of(kurrentdb)
        assert crashes > 10

    async def test_with_two_relays_that_live(self, server, kurrentdb):
        async with relaying(server, kurrentdb.url) as one, relaying(server, kurrentdb.url) as other:
            await fill(kurrentdb, 600, pause_every=2)
            await mirror_has(server, 600)
            await eventually(lambda: one.relay.mirrored + other.relay.mirrored == 600)
            await one.relay.check()
            await other.relay.check()
        assert await mirror_of(server) == source_of(kurrentdb)

    async def test_with_answers_of_nats_that_are_lost(self, server, kurrentdb):
        async with TcpProxy(server.port) as proxy:
            relay = RunningRelay(server, kurrentdb.url, nats_url=f"nats://127.0.0.1:{proxy.port}")
            await relay.start()
            for lost in range(8):
                proxy.lose_answer_to(b"HPUB ev.")
                await fill(kurrentdb, 40)
                await asyncio.wait_for(proxy.triggered.wait(), 20)
                await mirror_has(server, 40 * (lost + 1))
            await relay.crash()
        assert await mirror_of(server) == source_of(kurrentdb)

    async def test_when_both_servers_are_killed_again_and_again(self, server, kurrentdb):
        async with relaying(server, kurrentdb.url):
            filling = asyncio.create_task(fill(kurrentdb, 400, pause_every=1))
            for _ in range(3):
                await asyncio.to_thread(server.restart)
                await asyncio.sleep(0.2)
                await kurrentdb.stop()
                await asyncio.sleep(0.1)
                await kurrentdb.start()
            await filling
            await mirror_has(server, 400)
        assert await mirror_of(server) == source_of(kurrentdb)

    async def test_when_another_node_leads(self, server):
        async with KurrentDouble(nodes=3) as cluster:
            await declare_mirror(server, cluster.url)
            async with relaying(server, cluster.url):
                for leader in (1, 2, 0, 2):
                    await fill(cluster, 25)
                    cluster.elect(leader)
                    away = cluster.nodes[(leader + 1) % 3]
                    await away.stop()
                    await fill(cluster, 25)
                    await mirror_has(server, len(source_of(cluster)))
                    await away.start()
            assert await mirror_of(server) == source_of(cluster)

    async def test_when_it_is_thrown_away_and_filled_anew(self, server, kurrentdb):
        """Positions are the same again, so subscribers that stood somewhere go on there."""
        async with relaying(server, kurrentdb.url) as relay, opened(server, kurrentdb.url) as store:
            seen: list = []
            async with collecting(store.subscribe(), seen):
                await store.append("a", [cancelled("a"), started("a")])
                position = await store.append("b", [cancelled("b")])
                await eventually(lambda: len(seen) == 3)
                before = await mirror_of(server)
                await relay.crash()
                async with server.client() as nc:
                    await nc.jetstream().delete_stream("EVENTS")
                await declare_mirror(server, kurrentdb.url)
                await relay.start()
                assert await store.append("a", [cancelled("a")]) == position + 1
                await eventually(lambda: len(seen) == 4)
            assert [recorded.position for recorded in seen] == [1, 2, 3, 4]
        assert (await mirror_of(server))[:3] == before


class TestWhatIsMirrored:
    async def test_our_streams_only_and_of_them_everything(self, server, kurrentdb):
        await kurrentdb.put("orders-1", "OrderPlaced")
        await kurrentdb.put("run-a", "Strange type.of>event", b"\xff")
        await kurrentdb.put("run-not a name", "RunCancelled")
        await kurrentdb.put("$$run-a", "$metadata")
        await kurrentdb.put("run-a", "RunCancelled", b"")
        async with relaying(server, kurrentdb.url):
            await mirror_has(server, 2)
        assert await mirror_of(server) == [(1, "ev.a.Strange_type_of_event", b"\xff"), (2, "ev.a.RunCancelled", b"")]

    async def test_an_id_that_stands_in_two_streams_is_mirrored_twice(self, server, kurrentdb):
        """KurrentDB allows it. NATS would drop the second by its id, and only within some minutes."""
        one = await kurrentdb.put("run-a", "RunCancelled")
        await kurrentdb.put("run-b", "RunCancelled", event_id=one.event_id)
        async with relaying(server, kurrentdb.url):
            await mirror_has(server, 2)
        assert await mirror_of(server) == source_of(kurrentdb)

    async def test_a_message_that_the_mirror_cannot_take_stops_it_there_and_is_told(self, server, kurrentdb):
        await kurrentdb.put("run-a", "RunCancelled")
        await kurrentdb.put("run-a", "RunCancelled", b"x" * 300_000)
        await kurrentdb.put("run-a", "RunCancelled")
        async with relaying(server, kurrentdb.url) as running:
            await mirror_has(server, 1)
            await asyncio.sleep(1)
            with pytest.raises(EventStoreUnavailable, match="300000 bytes"):
                await running.relay.check()
        assert await mirror_of(server) == source_of(kurrentdb)[:1]


class TestRefusals:
    async def test_a_mirror_that_somebody_else_wrote_to(self, server, kurrentdb):
        await kurrentdb.put("run-a", "RunCancelled")
        async with server.client() as nc:
            await nc.jetstream().publish("ev.a.RunCancelled", b"{}")
        async with relaying(server, kurrentdb.url) as running:
            reason = await asyncio.wait_for(running.end(), 20)
        assert isinstance(reason, LogMismatch)
        assert "not written by the relay" in str(reason)
        assert len(await mirror_of(server)) == 1

    async def test_a_kurrentdb_that_was_restored_from_an_older_backup(self, server, kurrentdb):
        await fill(kurrentdb, 30)
        async with relaying(server, kurrentdb.url):
            await mirror_has(server, 30)
        before = await mirror_of(server)
        kurrentdb.log.truncate(20)
        await fill(kurrentdb, 30)
        async with relaying(server, kurrentdb.url) as running:
            reason = await asyncio.wait_for(running.end(), 20)
        assert isinstance(reason, LogMismatch)
        assert "restored from a backup" in str(reason)
        assert await mirror_of(server) == before

    async def test_a_kurrentdb_that_was_replaced_while_it_ran(self, server, kurrentdb):
        async with relaying(server, kurrentdb.url) as running:
            await fill(kurrentdb, 5)
            await mirror_has(server, 5)
            await kurrentdb.stop()
            await kurrentdb.put(f"$${LOG_STREAM}", "$metadata", b'{"log_of_record": "kurrentdb", "epoch": "2"}')
            await fill(kurrentdb, 5)
            await kurrentdb.start()
            reason = await asyncio.wait_for(running.end(), 20)
        assert isinstance(reason, LogMismatch)
        assert "mirrors another log" in str(reason)
        assert len(await mirror_of(server)) == 5
