"""What only the JetStream adapter has to stand: lost answers, wrong or late servers, missing permissions."""

import asyncio
import time
from uuid import uuid4

import msgspec
import pytest
from conformance.event_store_suite import cancelled, collecting, eventually, started
from nats.js.errors import APIError
from nats_process import NatsServer
from tcp_proxy import TcpProxy

from ridges.chassis.jetstream import open_event_store
from ridges.chassis.ports import NEW, EventRefused, EventStoreUnavailable, LastPosition, LogMismatch, WrongPosition
from ridges.contracts.events import RunCancelled


def opened(server, url=None, **changes):
    return open_event_store(url or server.url, **{"name": "test", "monitor_url": server.monitor_url} | changes)


def through(server, proxy):
    return opened(server, url=f"nats://127.0.0.1:{proxy.port}")


async def change_stream(server, **changes):
    async with server.client() as nc:
        info = msgspec.json.decode((await nc.request("$JS.API.STREAM.INFO.EVENTS", b"", 2)).data)
        body = msgspec.json.encode(info["config"] | changes)
        reply = msgspec.json.decode((await nc.request("$JS.API.STREAM.UPDATE.EVENTS", body, 2)).data)
        assert "error" not in reply, reply


class TestLostAcknowledgement:
    @pytest.mark.parametrize("expected", [None, NEW, LastPosition(0, RunCancelled)])
    async def test_of_one_event_is_no_failure_and_no_double(self, nats_server, expected):
        async with TcpProxy(nats_server.port) as proxy, through(nats_server, proxy) as store:
            proxy.lose_answer_to(b"HPUB ev.a.")
            assert await store.append("a", [cancelled("a")], expected) == 1
            assert proxy.triggered.is_set()
            assert await store.last_position() == 1

    @pytest.mark.parametrize("trigger", [b"Nats-Batch-Sequence: 1\r", b"Nats-Batch-Commit"])
    @pytest.mark.parametrize("expected", [None, NEW])
    async def test_of_several_events_is_no_failure_and_no_double(self, nats_server, expected, trigger):
        async with TcpProxy(nats_server.port) as proxy, through(nats_server, proxy) as store:
            proxy.lose_answer_to(trigger)
            assert await store.append("a", [cancelled("a"), started("a"), cancelled("a")], expected) == 3
            assert proxy.triggered.is_set()
            assert await store.last_position() == 3

    async def test_is_found_although_others_appended_meanwhile(self, nats_server):
        async with (
            TcpProxy(nats_server.port) as proxy,
            through(nats_server, proxy) as store,
            opened(nats_server) as other,
        ):
            proxy.lose_answer_to(b"HPUB ev.a.")
            proxy.open.clear()
            appending = asyncio.create_task(store.append("a", [cancelled("a")], NEW))
            await asyncio.wait_for(proxy.triggered.wait(), 10)
            await other.append("a", [cancelled("a"), started("a")])
            proxy.open.set()
            assert await appending == 1
            with pytest.raises(WrongPosition):
                await store.append("a", [cancelled("a")], NEW)


class TestManyAtOnce:
    async def test_a_lost_acknowledgement_of_many_is_no_failure_and_no_double(self, nats_server):
        async with TcpProxy(nats_server.port) as proxy, through(nats_server, proxy) as store:
            proxy.lose_answer_to(b"Nats-Batch-Commit")
            runs = [f"run-{number}" for number in range(40)]
            positions = await asyncio.gather(*(store.append(run, [cancelled(run)]) for run in runs))
            assert proxy.triggered.is_set(), "they went as a batch"
            assert sorted(positions) == list(range(1, 41))
            assert await store.last_position() == 40

    async def test_a_lost_acknowledgement_leaves_expectations_exact(self, nats_server):
        expected = LastPosition(0, RunCancelled)
        async with TcpProxy(nats_server.port) as proxy, through(nats_server, proxy) as store:
            proxy.lose_answer_to(b"Nats-Batch-Commit")
            runs = [f"run-{number}" for number in range(20)]
            await asyncio.gather(*(store.append(run, [cancelled(run)], expected) for run in runs))
            again = (store.append(run, [cancelled(run)], expected) for run in runs)
            answers = await asyncio.gather(*again, return_exceptions=True)
            assert [type(answer) for answer in answers] == [WrongPosition] * 20
            assert await store.last_position() == 20

    async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_among_them(self, nats_server):
        async with opened(nats_server) as store:
            events = [cancelled(f"run-{number % 50}") for number in range(400)]
            appending = [asyncio.create_task(store.append(event.run_id, [event])) for event in events]
            await asyncio.wait(appending, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(nats_server.kill9)
            await asyncio.to_thread(nats_server.start)
            positions = await asyncio.gather(*appending)
            assert sorted(positions) == list(range(1, 401))
            stored = {r.event.id: r.position async for r in store.read_all()}
            assert stored == {event.id: position for event, position in zip(events, positions, strict=True)}

    async def test_own_events_are_left_out_of_a_subscription_that_does_not_want_them(self, nats_server):
        async with opened(nats_server) as store, opened(nats_server) as other:
            seen: list = []
            async with collecting(store.subscribe(own=False), seen):
                await other.append("first", [cancelled("first")])
                await eventually(lambda: len(seen) == 1)
                runs = [f"run-{number}" for number in range(40)]
                await asyncio.gather(*(store.append(run, [cancelled(run)]) for run in runs))
                await other.append("last", [cancelled("last")])
                await eventually(lambda: seen[-1].event.run_id == "last")
            assert [r.position for r in seen] == [1, 42]


class TestOldIds:
    async def test_are_stored_once_when_the_server_has_forgotten_them(self, nats_server):
        async with opened(nats_server) as store:
            await change_stream(nats_server, duplicate_window=100_000_000)
            event = cancelled("a", event_id=str(uuid4()))
            more = [cancelled("a", event_id=str(uuid4())) for _ in range(2)]
            for _ in range(2):
                assert await store.append("a", [event]) == 1
                assert await store.append("a", more) == 3
                await asyncio.sleep(0.4)
            assert await store.last_position() == 3


class TestAnswersNothing:
    async def test_a_hung_server_makes_calls_fail_in_time_and_heals(self, nats_server):
        async with opened(nats_server) as store:
            nats_server.pause()
            try:
                with pytest.raises(EventStoreUnavailable):
                    await store.ping()
                began = time.monotonic()
                event = cancelled("a")
                with pytest.raises(EventStoreUnavailable, match="a: appending RunCancelled"):
                    await store.append("a", [event])
                assert time.monotonic() - began < 12
            finally:
                nats_server.resume()
            assert await store.append("a", [event]) == 1
            await asyncio.sleep(0.2)
            assert await store.last_position() == 1

    async def test_a_server_that_is_not_up_yet_is_waited_for(self, nats_server):
        nats_server.kill9()
        async with opened(nats_server) as store:
            with pytest.raises(EventStoreUnavailable, match="start it"):
                await store.ping()
            seen: list = []
            async with collecting(store.subscribe(), seen):
                nats_server.start()
                assert await store.append("a", [cancelled("a")]) == 1
                await eventually(lambda: len(seen) == 1)
            await store.ping()

    async def test_streams_that_are_not_there_yet_are_waited_for(self, tmp_path):
        server = NatsServer(tmp_path).start()
        try:
            async with opened(server) as store:
                with pytest.raises(EventStoreUnavailable, match=r"ridges\.chassis\.migrate"):
                    await store.ping()
                await server.migrate()
                await asyncio.wait_for(store.ready(), 10)
                await store.ping()
                assert await store.last_position() == 0
        finally:
            server.kill9()


class TestWrongLog:
    async def test_a_server_that_does_not_sync_is_refused(self, tmp_path):
        server = NatsServer(tmp_path, sync=None).start()
        try:
            await server.migrate()
            with pytest.raises(LogMismatch, match="sync_interval: always"):
                async with opened(server):
                    pass
            with pytest.raises(LogMismatch, match="RIDGES_NATS_MONITOR_URL"):
                async with opened(server, monitor_url=None):
                    pass
            async with opened(server, monitor_url=None, allow_lossy=True) as store:
                await store.ping()
        finally:
            server.kill9()

    @pytest.mark.parametrize("changes", [{"max_msgs": 10}, {"discard": "old"}, {"allow_atomic": False}])
    async def test_a_stream_set_otherwise_is_refused_until_it_is_mended(self, nats_server, changes):
        await change_stream(nats_server, **changes)
        with pytest.raises(LogMismatch, match=f"{next(iter(changes))} is .*ridges.chassis.migrate"):
            async with opened(nats_server):
                pass
        await nats_server.migrate()
        async with opened(nats_server) as store:
            await store.ping()

    async def test_another_log_of_record_is_refused(self, nats_server):
        await change_stream(nats_server, metadata={"log_of_record": "kurrentdb", "epoch": "1"})
        with pytest.raises(LogMismatch, match="kurrentdb"):
            async with opened(nats_server):
                pass

    async def test_a_log_of_another_epoch_than_configured_is_refused(self, nats_server):
        async with opened(nats_server) as store:
            epoch = store.epoch
        with pytest.raises(LogMismatch, match=f"has the epoch {epoch}, RIDGES_LOG_EPOCH says another"):
            async with opened(nats_server, log_epoch="another"):
                pass
        async with opened(nats_server, log_epoch=epoch) as store:
            await store.ping()

    async def test_a_log_that_was_replaced_ends_the_service_with_the_reason(self, nats_server):
        async def serve():
            async with opened(nats_server) as store:
                await store.append("a", [cancelled("a")])
                async with nats_server.client() as nc:
                    assert await nc.jetstream().delete_stream("EVENTS")
                await nats_server.migrate()
                await asyncio.to_thread(nats_server.restart)
                await asyncio.sleep(30)

        with pytest.raises(LogMismatch, match="was replaced"):
            await asyncio.wait_for(serve(), 20)


USERS = """
authorization {
  users = [
    { user: admin, password: a }
    { user: gateway, password: g, permissions: { publish: { deny: ["ev.*.RunCancelled", "$JS.API.CONSUMER.>"] } } }
  ]
}
"""


class TestPermissions:
    @pytest.fixture
    async def server(self, tmp_path):
        server = NatsServer(tmp_path, extra=USERS).start()
        try:
            await server.migrate(user="admin", password="a")
            yield server
        finally:
            server.kill9()

    async def test_a_denied_event_is_refused_at_once(self, server):
        async with opened(server, user="gateway", password="g") as store:
            began = time.monotonic()
            with pytest.raises(EventRefused, match="'gateway' lacks this permission"):
                await store.append("a", [cancelled("a")])
            with pytest.raises(EventRefused, match="permissions violation"):
                await store.append("a", [started("a"), cancelled("a"), started("a")])
            with pytest.raises(EventRefused):
                await store.append("a", [started("a"), cancelled("a")])
            assert time.monotonic() - began < 2
            assert await store.append("a", [started("a")]) == 1
            assert [r.event.attempt for r in await store.read_run("a")] == [1]

    async def test_of_many_at_once_a_denied_event_is_refused_by_itself(self, server):
        async with opened(server, user="gateway", password="g") as store:
            runs = [f"run-{number}" for number in range(30)]
            asked = [store.append(run, [started(run)]) for run in runs]
            asked.insert(15, store.append("denied", [cancelled("denied")]))
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(answers.pop(15), EventRefused)
            assert sorted(answers) == list(range(1, 31))

    async def test_a_denied_reader_hears_it(self, server):
        async with opened(server, user="gateway", password="g") as store:
            with pytest.raises(EventRefused):
                await asyncio.wait_for(anext(store.subscribe()), 5)

            async def handle(recorded):
                """Never called."""

            async with store.consume("q", [RunCancelled], handle):
                await asyncio.sleep(0.3)
                with pytest.raises(EventStoreUnavailable, match=r"queue q: .*permission"):
                    await store.ping()

    async def test_a_wrong_password_is_refused(self, server):
        with pytest.raises(LogMismatch, match="RIDGES_NATS_PASSWORD"):
            async with opened(server, user="gateway", password="wrong"):
                pass


class TestMigrate:
    async def test_twice_changes_nothing_and_keeps_the_epoch(self, nats_server):
        async with opened(nats_server) as store:
            epoch = store.epoch
            await store.append("a", [cancelled("a")])
        await nats_server.migrate()
        async with opened(nats_server) as store:
            assert store.epoch == epoch
            assert await store.last_position() == 1

    async def test_history_cannot_be_deleted_or_purged(self, nats_server):
        async with opened(nats_server) as store:
            await store.append("a", [cancelled("a")])
            jetstream = store.nc.jetstream()
            with pytest.raises(APIError, match="not permitted"):
                await jetstream.delete_msg("EVENTS", 1)
            with pytest.raises(APIError, match="not permitted"):
                await jetstream.purge_stream("EVENTS")
