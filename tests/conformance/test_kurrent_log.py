"""What only the KurrentDB adapter has to stand: lost answers, another leader, no relay, the wrong log."""

import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from conformance.event_store_suite import cancelled, evaluating, eventually, started
from kurrent_double.cluster import KurrentDouble
from kurrent_world import declare_mirror, opened, relaying
from nats_process import NatsServer

from ridges.chassis.jetstream import open_event_store as open_jetstream
from ridges.chassis.kurrent.connection import KurrentConnection
from ridges.chassis.kurrent.names import LOG_STREAM
from ridges.chassis.ports import NEW, EventRefused, EventStoreUnavailable, LastPosition, LogMismatch, WrongPosition
from ridges.chassis.settings import SettingsError
from ridges.contracts.codec import encode
from ridges.contracts.events import AgentStarted, RunCancelled


@pytest.fixture
async def server(tmp_path):
    server = NatsServer(tmp_path / "nats").start()
    yield server
    server.kill9()


@asynccontextmanager
async def world(server, nodes=1, url=None):
    """(the double, an open store), with a relay at work."""
    async with KurrentDouble(nodes) as kurrentdb:
        url = kurrentdb.url if url is None else url(kurrentdb)
        await declare_mirror(server, url)
        async with relaying(server, url), opened(server, url) as store:
            await store.ready()
            yield kurrentdb, store


class TestLostAcknowledgement:
    @pytest.mark.parametrize("fault", ["lost", "unacknowledged", "silent"])
    @pytest.mark.parametrize("expected", [None, NEW, LastPosition(0, RunCancelled)])
    async def test_is_no_failure_and_no_double(self, server, expected, fault):
        async with world(server) as (kurrentdb, store):
            kurrentdb.leader.faults.append(fault)
            assert await store.append("a", [cancelled("a"), started("a"), cancelled("a")], expected) == 3
            assert kurrentdb.leader.faults == []
            assert len(kurrentdb.log.stream("run-a")) == 3
            assert await store.last_position() == 3

    async def test_is_found_although_others_appended_meanwhile(self, server):
        async with world(server) as (kurrentdb, store), opened(server, kurrentdb.url) as other:
            kurrentdb.leader.faults.append("unacknowledged")
            appending = asyncio.create_task(store.append("a", [cancelled("a")], NEW))
            await eventually(lambda: kurrentdb.log.stream("run-a"))
            await other.append("a", [started("a")])
            assert await appending == 1
            with pytest.raises(WrongPosition) as caught:
                await store.append("a", [cancelled("a")], NEW)
            assert caught.value.actual == 2

    async def test_of_another_process_long_ago_is_found(self, server):
        events = [cancelled("a", event_id=str(uuid4())) for _ in range(2)]
        async with world(server) as (kurrentdb, store):
            assert await store.append("a", events) == 2
            await store.append("a", [started("a")])
            await kurrentdb.stop()
            await kurrentdb.start()
            async with opened(server, kurrentdb.url) as other:
                assert await other.append("a", events) == 2
                assert await other.append("a", [*events, evaluating("a")]) == 4
            assert len(kurrentdb.log.stream("run-a")) == 4


class TestExpectations:
    async def test_of_a_type_stand_while_others_append_other_types(self, server):
        """The gateway's reservations: cancels and sandbox events come between and must not count."""
        async with world(server) as (kurrentdb, store), opened(server, kurrentdb.url) as other:
            stop = asyncio.Event()

            async def disturb():
                while not stop.is_set():
                    await other.append("a", [cancelled("a")])

            disturbing = asyncio.create_task(disturb())
            last = 0
            for attempt in range(1, 31):
                last = await store.append("a", [started("a", attempt)], LastPosition(last, AgentStarted))
            stop.set()
            await disturbing
            recorded = await store.read_run("a")
            attempts = [r.event.attempt for r in recorded if isinstance(r.event, AgentStarted)]
            assert attempts == list(range(1, 31))
            assert kurrentdb.leader.refused_appends > 0, "the disturbance never came between"

    async def test_of_two_processes_one_wins_each_time(self, server):
        async with world(server) as (kurrentdb, store), opened(server, kurrentdb.url) as other:
            wins = []

            async def reserve(mine, name):
                for _ in range(10):
                    while True:
                        seen = [r for r in await mine.read_run("a") if isinstance(r.event, AgentStarted)]
                        newest = seen[-1].position if seen else 0
                        try:
                            event = started("a", len(seen) + 1)
                            await mine.append("a", [event], LastPosition(newest, AgentStarted))
                        except WrongPosition:
                            continue
                        wins.append(name)
                        break

            await asyncio.gather(reserve(store, "one"), reserve(other, "two"))
            assert sorted(wins) == ["one"] * 10 + ["two"] * 10
            assert [r.event.attempt for r in await store.read_run("a")] == list(range(1, 21))

    async def test_a_position_of_another_stream_is_no_position_of_this_one(self, server):
        async with world(server) as (_, store):
            await store.append("a", [cancelled("a")])
            elsewhere = await store.append("b", [cancelled("b")])
            with pytest.raises(WrongPosition) as caught:
                await store.append("a", [cancelled("a")], LastPosition(elsewhere))
            assert caught.value.actual == 1
            with pytest.raises(WrongPosition):
                await store.append("a", [cancelled("a")], LastPosition(99))


class TestRefusals:
    async def test_an_append_that_is_too_large_for_kurrentdb_is_refused_at_once(self, server):
        async with world(server) as (kurrentdb, store):
            began = time.monotonic()
            with pytest.raises(EventRefused, match=r"KurrentDB at 127\.0\.0\.1.*refuses"):
                await store.append("a", [cancelled("a", "x" * 200_000) for _ in range(6)])
            assert time.monotonic() - began < 2
            assert kurrentdb.log.stream("run-a") is None

    async def test_an_event_that_kurrentdb_would_take_but_not_the_mirror_is_refused(self, server):
        async with world(server) as (kurrentdb, store):
            room = 256 * 1024 - len(encode(cancelled("a", "")))
            with pytest.raises(EventRefused, match="blob"):
                await store.append("a", [cancelled("a", "x" * (room - 10))])
            assert kurrentdb.log.stream("run-a") is None
            assert await store.append("a", [cancelled("a", "x" * (room - 1024))]) == 1

    async def test_an_id_that_is_no_uuid_is_refused(self, server):
        async with world(server) as (_, store):
            with pytest.raises(EventRefused, match="no UUID"):
                await store.append("a", [cancelled("a", event_id="x")])

    async def test_an_id_of_another_type_is_refused_also_in_another_process(self, server):
        async with world(server) as (kurrentdb, store):
            event = cancelled("a")
            await store.append("a", [event])
            async with opened(server, kurrentdb.url) as other:
                with pytest.raises(EventRefused, match="ids must be unique"):
                    await other.append(
                        "a",
                        [
                            AgentStarted(
                                id=event.id, run_id="a", time=event.time, attempt=1, manager="m", sandbox="process"
                            )
                        ],
                    )


def all_nodes(kurrentdb):
    return kurrentdb.url


def one_node(kurrentdb):
    return kurrentdb.url_of_one


class TestAnotherLeader:
    @pytest.mark.parametrize("url", [all_nodes, one_node])
    async def test_appends_and_the_relay_go_on_with_it(self, server, url):
        async with world(server, 3, url) as (kurrentdb, store):
            for leader in (0, 1, 2, 1, 0):
                kurrentdb.elect(leader)
                await store.append("a", [cancelled("a"), started("a")])
            recorded = await store.read_run("a")
            assert [r.position for r in recorded] == list(range(1, 11))

    async def test_that_takes_over_in_the_middle_of_an_append(self, server):
        async with world(server, 3) as (kurrentdb, store):
            await store.append("a", [started("a")])
            kurrentdb.nodes[0].faults.append("silent")
            appending = asyncio.create_task(store.append("a", [cancelled("a")]))
            await eventually(lambda: len(kurrentdb.log.stream("run-a")) == 2)
            kurrentdb.elect(2)
            await kurrentdb.nodes[0].stop()
            assert await appending == 2
            await kurrentdb.nodes[0].start()
            assert await store.append("a", [cancelled("a")]) == 3


class TestAnswersNothing:
    async def test_a_read_that_breaks_is_never_a_shorter_run(self, server):
        async with world(server) as (kurrentdb, store):
            await store.append("a", [cancelled("a") for _ in range(50)])
            for cut in (0, 1, 7, 49):
                kurrentdb.leader.cut_reads_after = cut
                assert len(await store.read_run("a")) == 50
                assert kurrentdb.leader.cut_reads_after is None

    async def test_kurrentdb_that_is_away_makes_calls_fail_in_time_and_heals(self, server):
        async with world(server) as (kurrentdb, store):
            await store.append("a", [cancelled("a")])
            await kurrentdb.stop()
            with pytest.raises(EventStoreUnavailable, match="KurrentDB at"):
                await store.ping()
            began = time.monotonic()
            event = started("a")
            with pytest.raises(EventStoreUnavailable, match=r"a: appending AgentStarted.*KurrentDB"):
                await store.append("a", [event])
            assert time.monotonic() - began < 12
            assert [r.position async for r in store.read_all()] == [1], "the mirror can be read meanwhile"
            await kurrentdb.start()
            began = time.monotonic()
            assert await store.append("a", [event]) == 2
            await store.ping()
            assert time.monotonic() - began < 3

    async def test_kurrentdb_that_went_back_in_time_takes_no_append(self, server):
        async with world(server) as (kurrentdb, store):
            await store.append("a", [cancelled("a"), started("a"), cancelled("a")])
            kurrentdb.log.truncate(len(kurrentdb.log) - 2)
            with pytest.raises(EventStoreUnavailable, match=r"a: KurrentDB holds fewer than the 3 events"):
                await store.append("a", [cancelled("a")])
            assert len(kurrentdb.log.stream("run-a")) == 1

    async def test_without_a_relay_an_append_says_so_and_a_retry_finds_it(self, server):
        async with KurrentDouble() as kurrentdb:
            await declare_mirror(server, kurrentdb.url)
            async with opened(server, kurrentdb.url) as store:
                event = cancelled("a")
                with pytest.raises(EventStoreUnavailable, match=r"relay has not mirrored it.*is the ledger running"):
                    await store.append("a", [event])
                async with relaying(server, kurrentdb.url):
                    assert await store.append("a", [event]) == 1
                assert len(kurrentdb.log.stream("run-a")) == 1

    async def test_servers_and_streams_that_are_not_there_yet_are_waited_for(self, server):
        kurrentdb = KurrentDouble()
        async with opened(server, kurrentdb.url) as store:
            with pytest.raises(EventStoreUnavailable, match=r"ridges\.chassis\.migrate"):
                await store.ping()
            async with kurrentdb:
                await declare_mirror(server, kurrentdb.url)
                await asyncio.wait_for(store.ready(), 10)
                async with relaying(server, kurrentdb.url):
                    assert await store.append("a", [cancelled("a")]) == 1


class TestWrongLog:
    async def test_a_log_on_nats_is_refused_by_who_looks_for_kurrentdb(self, server):
        await server.migrate()
        async with KurrentDouble() as kurrentdb:
            with pytest.raises(LogMismatch, match=r"the log of record is 'jetstream'.*'kurrentdb'"):
                async with opened(server, kurrentdb.url):
                    pass
            with pytest.raises(LogMismatch, match=r"RIDGES_EVENT_STORE_URL, move the log .*, or begin a new one"):
                await declare_mirror(server, kurrentdb.url)

    async def test_a_mirror_is_refused_by_who_looks_for_a_log_on_nats(self, server):
        async with world(server) as (_, store):
            await store.append("a", [cancelled("a")])
            with pytest.raises(LogMismatch, match=r"the log of record is 'kurrentdb'.*'jetstream'"):
                async with open_jetstream(server.url, name="test", monitor_url=server.monitor_url):
                    pass
            with pytest.raises(LogMismatch, match="log_of_record"):
                await server.migrate()

    async def test_the_mirror_of_another_kurrentdb_is_refused(self, server):
        async with KurrentDouble() as one, KurrentDouble() as other:
            await declare_mirror(server, one.url)
            await other.put(f"$${LOG_STREAM}", "$metadata", b'{"log_of_record": "kurrentdb", "epoch": "2"}')
            with pytest.raises(LogMismatch, match="mirrors another log"):
                async with opened(server, other.url):
                    pass

    async def test_a_kurrentdb_that_was_moved_elsewhere_is_refused(self, server):
        async with KurrentDouble() as kurrentdb:
            await declare_mirror(server, kurrentdb.url)
            await kurrentdb.put(f"$${LOG_STREAM}", "$metadata", b'{"log_of_record": "jetstream", "epoch": "2"}')
            with pytest.raises(LogMismatch, match="not the log of record"):
                async with opened(server, kurrentdb.url):
                    pass

    async def test_migrate_again_changes_nothing(self, server):
        async with world(server) as (kurrentdb, store):
            await store.append("a", [cancelled("a")])
            assert await declare_mirror(server, kurrentdb.url) == store.epoch
            assert await store.append("a", [cancelled("a")]) == 2

    async def test_without_its_client_the_setting_is_refused_with_what_to_install(self, server, monkeypatch):
        monkeypatch.setitem(sys.modules, "ridges.chassis.kurrent", None)
        with pytest.raises(SettingsError, match=r"RIDGES_EVENT_STORE_URL.*ridges-chassis\[kurrent\]"):
            async with opened(server, "kurrentdb://127.0.0.1:2113?Tls=false"):
                pass

    @pytest.mark.parametrize(
        "url",
        [
            "http://user:secret@127.0.0.1:2113",
            "kurrentdb://user:secret@",
            "kurrentdb://127.0.0.1:2113",
            "kurrentdb://user:secret@127.0.0.1:2113?Tsl=false",
            "kurrentdb://user:secret@127.0.0.1:2113?NodePreference=follower",
        ],
    )
    def test_a_url_that_cannot_be_used_is_told_with_an_example_and_without_its_password(self, url):
        with pytest.raises(SettingsError, match=r"RIDGES_EVENT_STORE_URL.*kurrentdb://user:password@host") as caught:
            KurrentConnection(url, "test")
        assert "secret" not in str(caught.value)


class TestMigrateStep:
    async def test_declares_a_mirror_and_refuses_another_log(self, server):
        async with KurrentDouble() as kurrentdb:
            assert await migrate(server, kurrentdb.url) == (0, "")
            assert await migrate(server, kurrentdb.url) == (0, "")
            async with relaying(server, kurrentdb.url), opened(server, kurrentdb.url) as store:
                assert await store.append("a", [cancelled("a")]) == 1
            status, told = await migrate(server, None)
            assert status == 3
            assert "log_of_record = 'kurrentdb'" in told
            status, told = await migrate(server, "kurrentdb://")
            assert status == 2
            assert "RIDGES_EVENT_STORE_URL" in told


async def migrate(server, event_store_url):
    """(exit status, stderr)"""
    environ = {"RIDGES_NATS_URL": server.url} | ({"RIDGES_EVENT_STORE_URL": event_store_url} if event_store_url else {})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ridges.chassis.migrate",
        env=os.environ | environ,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    _, told = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, told.decode()
