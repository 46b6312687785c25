"""Who may do what at a NATS server with the configuration that we ship: one test for each forbidden act."""

import asyncio
import json
import re
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from guarded_nats import GuardedServer, login, service_login
from nats.js.api import ConsumerConfig
from nats_process import NatsServer

from ridges.chassis import migrate
from ridges.chassis.jetstream import open_event_store
from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.jetstream.permissions import ADMIN, CLIENT, CONTAINER_CONFIGS, QUEUES, RELAY, container_conf
from ridges.chassis.jetstream.place import Place
from ridges.chassis.ports import EventRefused, LogMismatch
from ridges.contracts.codec import decode
from ridges.contracts.events import EVENT_TYPES, RunCancelled
from ridges.contracts.flows import FLOWS
from ridges.evaluator.subscribers import EXITS_QUEUE, PATCHES_QUEUE
from ridges.sandbox_manager.app import AGENTS_QUEUE, EVALUATIONS_QUEUE

REFUSED_WITHIN_S = 4.0
"""A time-out of the log's own would take 8 s."""
FOLDER = Path(__file__).parents[1]
SERVICES = tuple(FLOWS)
OWN = [(service, cls.__name__) for service, flow in FLOWS.items() for cls in flow.appends]
FOREIGN = [(service, name) for service in SERVICES for name in EVENT_TYPES if (service, name) not in OWN]
FOREIGN_QUEUES = [(service, queue) for service in SERVICES for queue in QUEUES if queue not in FLOWS[service].queues]
STREAM_CHANGES = [
    f"STREAM.{act}.{stream}"
    for act in ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "RESTORE", "SNAPSHOT")
    for stream in ("EVENTS", "INGRESS", "PARKED")
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    guarded = GuardedServer(tmp_path_factory.mktemp("guarded")).start()
    try:
        guarded.migrate_now()
        yield guarded
    finally:
        guarded.kill9()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    guarded = GuardedServer(tmp_path_factory.mktemp("mirror"), "kurrentdb").start()
    try:
        guarded.migrate_now()
        yield guarded
    finally:
        guarded.kill9()


def opened(server, user):
    return open_event_store(server.url, name=user, monitor_url=server.monitor_url, **login(user))


@asynccontextmanager
async def connected(server, user):
    connection = Connection(Place(url=server.url, name=user, monitor_url=server.monitor_url, **login(user)))
    try:
        await connection.open(10)
        yield connection
    finally:
        await connection.close()


def sample(name):
    content = json.loads((FOLDER / "golden" / "events" / f"{name}.v1.json").read_text())
    return decode(json.dumps(content | {"id": str(uuid4()), "run_id": f"run-{uuid4().hex}"}).encode())


async def refused(connection, subject, payload=b"{}"):
    began = time.monotonic()
    with pytest.raises(EventRefused, match="permissions violation"):
        await connection.request(subject, payload, timeout_s=10)
    assert time.monotonic() - began < REFUSED_WITHIN_S


async def streams(server):
    """Configuration and number of messages of every stream, as the admin sees them."""
    async with server.client(**login(ADMIN)) as nc:
        return {
            info.config.name: (msgspec.json.encode(info.config.as_dict()), info.state.messages)
            for info in await nc.jetstream().streams_info()
        }


class TestEvents:
    @pytest.mark.parametrize(("service", "name"), OWN)
    async def test_a_service_appends_its_own(self, server, service, name):
        event = sample(name)
        async with opened(server, service) as store:
            await store.append(event.run_id, [event])
            assert [stored.event for stored in await store.read_run(event.run_id)] == [event]

    @pytest.mark.parametrize("service", SERVICES)
    async def test_a_service_appends_several_at_once(self, server, service):
        events = [sample(cls.__name__) for cls in FLOWS[service].appends[:2] * 2]
        stream_id = events[0].run_id
        events = [msgspec.structs.replace(event, run_id=stream_id, id=str(uuid4())) for event in events]
        async with opened(server, service) as store:
            await store.append(stream_id, events)
            assert len(await store.read_run(stream_id)) == 4

    @pytest.mark.parametrize(("service", "name"), FOREIGN)
    async def test_those_of_others_are_refused_at_once(self, server, service, name):
        event = sample(name)
        async with opened(server, service) as store:
            before = await store.last_position()
            began = time.monotonic()
            with pytest.raises(EventRefused, match=f"'{service}' lacks this permission"):
                await store.append(event.run_id, [event])
            assert time.monotonic() - began < REFUSED_WITHIN_S
            assert await store.last_position() == before

    @pytest.mark.parametrize("name", EVENT_TYPES)
    async def test_nobody_appends_without_a_name(self, server, name):
        event = sample(name)
        async with open_event_store(server.url, name="nobody", monitor_url=server.monitor_url) as store:
            with pytest.raises(EventRefused, match="permissions violation"):
                await store.append(event.run_id, [event])


class TestStreams:
    @pytest.mark.parametrize("user", [*SERVICES, CLIENT])
    @pytest.mark.parametrize("act", STREAM_CHANGES)
    async def test_nobody_but_the_admin_changes_one(self, server, user, act):
        before = await streams(server)
        async with connected(server, user) as connection:
            await refused(connection, f"$JS.API.{act}", b'{"seq":1}' if "MSG" in act else b"")
        assert await streams(server) == before

    @pytest.mark.parametrize("user", [*SERVICES, CLIENT])
    async def test_the_server_is_not_made_to_do_it(self, server, user):
        """A push consumer has the server publish wherever it is told to; it delivers only where somebody listens."""
        before = await streams(server)
        async with connected(server, user) as connection:
            for target in ("$JS.API.STREAM.DELETE.EVENTS", "park.x.y", "in.RunRequested"):
                name = uuid4().hex
                config = {
                    "name": name,
                    "deliver_policy": "all",
                    "ack_policy": "none",
                    "deliver_subject": target,
                    "headers_only": True,
                    "mem_storage": True,
                    "inactive_threshold": 10**11,
                }
                body = msgspec.json.encode({"stream_name": "EVENTS", "config": config})
                await connection.request(f"$JS.API.CONSUMER.CREATE.EVENTS.{name}", body)
            await asyncio.sleep(0.3)
        assert await streams(server) == before

    async def test_migrate_says_who_lacks_the_permission(self, server, capsys, monkeypatch):
        for variable, value in (service_login("gateway") | {"RIDGES_NATS_URL": server.url}).items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("RIDGES_STREAM_REPLICAS", "3")
        began = time.monotonic()
        assert await asyncio.to_thread(migrate.main) == 3
        assert time.monotonic() - began < REFUSED_WITHIN_S
        assert "'gateway'" in (told := capsys.readouterr().err), told
        assert "RIDGES_NATS_USER" in told

    @pytest.mark.parametrize(("claims", "code"), [("600MB", 3), ("800MB", 0)])
    async def test_migrate_says_when_the_server_may_store_too_little(self, tmp_path, capsys, monkeypatch, claims, code):
        small = NatsServer(tmp_path, claims=claims).start()
        try:
            monkeypatch.setenv("RIDGES_NATS_URL", small.url)
            assert await asyncio.to_thread(migrate.main) == code
            assert ("reserve 768 MB: raise max_file_store" in capsys.readouterr().err) == (code != 0)
        finally:
            small.kill9()


class TestConsumers:
    def test_the_table_names_the_services_queues(self):
        assert FLOWS["evaluator"].queues == (PATCHES_QUEUE, EXITS_QUEUE)
        assert FLOWS["sandbox-manager"].queues == (AGENTS_QUEUE, EVALUATIONS_QUEUE)

    @pytest.mark.parametrize("queue", QUEUES)
    async def test_a_queues_owner_consumes_and_parks(self, server, queue):
        owner = next(name for name, flow in FLOWS.items() if queue in flow.queues)
        event, seen = sample("RunCancelled"), asyncio.Event()

        async def handle(recorded):
            if recorded.event.id == event.id:
                seen.set()

        async with opened(server, "ledger") as ledger, opened(server, owner) as store:
            await ledger.append(event.run_id, [event])
            async with store.consume(queue, [RunCancelled], handle):
                await asyncio.wait_for(seen.wait(), 20)
                await store.ping()
            parked = f"park.{queue}.RunCancelled"
            async with connected(server, owner) as connection:
                assert b'"PARKED"' in (await connection.request(parked, b"{}")).data

    @pytest.mark.parametrize(("user", "queue"), [*FOREIGN_QUEUES, *((CLIENT, queue) for queue in QUEUES)])
    async def test_a_foreign_queue_cannot_be_touched(self, server, user, queue):
        body = msgspec.json.encode({"stream_name": "EVENTS", "config": {"durable_name": queue, "name": queue}})
        async with connected(server, user) as connection:
            for subject in (
                f"$JS.API.CONSUMER.CREATE.EVENTS.{queue}",
                f"$JS.API.CONSUMER.CREATE.EVENTS.{queue}.ev.>",
                f"$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.{queue}",
                f"$JS.API.CONSUMER.DELETE.EVENTS.{queue}",
                f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{queue}",
                f"$JS.API.CONSUMER.PAUSE.EVENTS.{queue}",
                f"$JS.API.CONSUMER.RESET.EVENTS.{queue}",
                f"$JS.ACK.EVENTS.{queue}.1.1.1.1.0",
                f"park.{queue}.RunRequested",
            ):
                await refused(connection, subject, body)

    @pytest.mark.parametrize("queue", QUEUES)
    async def test_a_durable_is_not_changed_by_a_name_in_the_body(self, server, queue):
        """The old form of the request has no name in its subject: with it nats-server lets anybody change a durable."""
        async with server.client(**login(ADMIN)) as nc:
            config = {"durable_name": queue, "name": queue, "ack_policy": "explicit", "filter_subjects": ["ev.none"]}
            body = msgspec.json.encode({"stream_name": "EVENTS", "config": config})
            await nc.request(f"$JS.API.CONSUMER.DELETE.EVENTS.{queue}", b"", timeout=5)
            await nc.request(f"$JS.API.CONSUMER.CREATE.EVENTS.{queue}", body, timeout=5)
            async with connected(server, CLIENT) as connection:
                for names in ({"name": queue}, {"durable_name": queue}, {"name": "mine", "durable_name": queue}):
                    changed = {"ack_policy": "explicit", "max_deliver": 1} | names
                    body = msgspec.json.encode({"stream_name": "EVENTS", "config": changed})
                    await refused(connection, "$JS.API.CONSUMER.CREATE.EVENTS", body)
                    await connection.request("$JS.API.CONSUMER.CREATE.EVENTS.mine", body)
            info = await nc.jetstream().consumer_info("EVENTS", queue)
            assert (info.config.max_deliver, info.config.filter_subjects or [info.config.filter_subject]) == (
                -1,
                ["ev.none"],
            )

    @pytest.mark.parametrize("user", ["gateway", "sandbox-manager", "evaluator", CLIENT])
    async def test_the_ingress_belongs_to_the_ledger(self, server, user):
        async with connected(server, user) as connection:
            for act in ("CREATE.INGRESS.ledger", "CREATE.INGRESS.mine", "MSG.NEXT.INGRESS.ledger"):
                await refused(connection, f"$JS.API.CONSUMER.{act}")
            await refused(connection, "$JS.API.CONSUMER.DELETE.INGRESS.ledger")


class TestClient:
    async def test_asks_for_runs_and_reads_the_log(self, server):
        async with opened(server, "ledger") as store:
            event = sample("RunCancelled")
            await store.append(event.run_id, [event])
        async with server.client() as nc:
            acknowledged = await nc.jetstream().publish("in.RunCancelled", b"{}")
            assert acknowledged.stream == "INGRESS"
            named = ConsumerConfig(name=uuid4().hex)
            ordered = await nc.jetstream().subscribe(f"ev.{event.run_id}.>", ordered_consumer=True, config=named)
            assert json.loads((await ordered.next_msg(timeout=5)).data)["id"] == event.id
            pulling = await nc.jetstream().pull_subscribe(f"ev.{event.run_id}.>", stream="EVENTS")
            [message] = await pulling.fetch(1, timeout=5)
            await message.ack()

    @pytest.mark.parametrize("subject", ["in.>", "park.>", "$SYS.>", "$JS.>", ">"])
    async def test_hears_no_requests_of_others(self, server, subject):
        denied = asyncio.Event()

        async def on_error(error):
            if "permissions violation for subscription" in str(error).lower():
                denied.set()

        async with server.client(error_cb=on_error) as nc:
            await nc.subscribe(subject)
            await asyncio.wait_for(denied.wait(), 10)

    def test_is_not_the_default_where_others_reach_the_server(self, tmp_path):
        guarded = GuardedServer(tmp_path, anonymous=False).start()
        try:
            with socket.create_connection(("127.0.0.1", guarded.port), 5) as raw, raw.makefile("rb") as answers:
                assert b'"auth_required":true' in answers.readline()
                raw.sendall(b"CONNECT {}\r\nPING\r\n")
                assert b"Authorization Violation" in answers.readline()
        finally:
            guarded.kill9()


class TestInboxes:
    """A service's answers are nobody else's."""

    @pytest.mark.parametrize(
        ("user", "other"),
        [(user, other) for user in (*SERVICES, CLIENT) for other in (*SERVICES, RELAY) if user != other],
    )
    async def test_nobody_listens_to_those_of_a_service(self, server, user, other):
        for subject in (f"_INBOX_{other}.>", f"_INBOX_{other}.abc.*"):
            await _denied(server, user, subject)

    @pytest.mark.parametrize("user", SERVICES)
    async def test_a_service_does_not_listen_to_those_of_clients(self, server, user):
        await _denied(server, user, "_INBOX.>")

    @pytest.mark.parametrize(
        ("user", "other"), [(user, other) for user in (*SERVICES, CLIENT) for other in SERVICES if user != other]
    )
    async def test_nobody_answers_a_service_in_the_servers_name(self, server, user, other):
        async with connected(server, user) as connection:
            await refused(connection, f"_INBOX_{other}.abc.1")

    async def test_users_of_an_older_release_are_named_at_once(self, tmp_path):
        class Older(GuardedServer):
            def configuration(self):
                return re.sub(r"_INBOX_[a-z-]+", "_INBOX", super().configuration())

        older = Older(tmp_path).start()
        try:
            await older.migrate()
            connection = Connection(Place(url=older.url, name="ledger", **login("ledger")))
            with pytest.raises(LogMismatch, match=r"write its configuration again"):
                await connection.open(10)
            await connection.close()
        finally:
            older.kill9()


async def _denied(server, user, subject):
    denied = asyncio.Event()

    async def on_error(error):
        if "permissions violation for subscription" in str(error).lower():
            denied.set()

    async with server.client(error_cb=on_error, **login(user)) as nc:
        await nc.subscribe(subject)
        await asyncio.wait_for(denied.wait(), 10)


class TestMirror:
    """Where KurrentDB is the log, the stream EVENTS is its mirror and has one writer."""

    @pytest.mark.parametrize(("service", "name"), OWN)
    async def test_a_service_does_not_write_to_it(self, mirror, service, name):
        event = sample(name)
        async with opened(mirror, service) as store:
            with pytest.raises(EventRefused, match="permissions violation"):
                await store.append(event.run_id, [event])

    async def test_the_relay_does(self, mirror):
        async with connected(mirror, RELAY) as connection:
            assert b'"seq":' in (await connection.request("ev.a.RunCancelled", b"{}")).data
            for act in STREAM_CHANGES:
                await refused(connection, f"$JS.API.{act}")

    def test_there_is_no_relay_where_it_is_the_log(self):
        assert RELAY not in container_conf("jetstream")


@pytest.mark.parametrize("log_of_record", CONTAINER_CONFIGS)
def test_the_files_in_infra_are_up_to_date(log_of_record):
    written = (FOLDER.parent / "infra" / CONTAINER_CONFIGS[log_of_record]).read_text("utf-8")
    assert written == container_conf(log_of_record), "run: python -m ridges.chassis.jetstream.permissions"
