"""`ridges ledger migrate` to and from a cluster of three nats-servers, while the one that leads the log is killed."""

import asyncio
import json

import pytest
from integration.migration_world import (
    Copier,
    Writers,
    ask_for_runs,
    closed_half_way,
    filled,
    migrated,
    one_more,
    stream_of,
    told,
    waiting,
)
from integration.test_ledger_service import log_of
from nats_cluster import NatsCluster
from nats_process import NatsServer

from ridges.chassis.migrate import declare_streams
from ridges.chassis.ports import EventStoreUnavailable, LogMismatch

pytestmark = pytest.mark.timeout(180)

STREAMS = ("EVENTS", "INGRESS", "PARKED")


@pytest.fixture
async def cluster(tmp_path):
    servers = NatsCluster(tmp_path / "cluster").start()
    try:
        await servers.ready()
        yield servers
    finally:
        servers.kill9()


@pytest.fixture
def single(tmp_path):
    server = NatsServer(tmp_path / "single").start()
    yield server
    server.kill9()


async def declared(server, replicas):
    async with server.client() as nc:
        await declare_streams(nc, replicas)


async def replicas_of(server):
    return {name: (await stream_of(server, name))["config"]["num_replicas"] for name in STREAMS}


async def until_it_holds(server, count):
    """The copier has brought so many events to a server that is no cluster."""
    async with asyncio.timeout(30), server.client() as nc:
        while True:
            found = json.loads((await nc.request("$JS.API.STREAM.INFO.EVENTS", timeout=10)).data)
            if found.get("state", {}).get("last_seq", 0) >= count:
                return


async def until_moved(old, new, **settings):
    """Run again until it has an end: what a server that was killed interrupts goes on."""
    async with asyncio.timeout(90):
        while True:
            code, result = await migrated(old, new, **settings)
            if code == 0:
                return result
            assert "the same command" in result["summary"] or "refuses" in result["summary"], result
            await asyncio.sleep(0.5)


async def test_to_a_cluster_with_three_copies_although_its_leader_is_killed_on_the_way(single, cluster):
    await declared(single, 1)
    last = await filled(single, 40)
    await ask_for_runs(single, 2)
    entrance = cluster.servers[0]
    target = {"RIDGES_TARGET_STREAM_REPLICAS": "3", "RIDGES_TARGET_NATS_MONITOR_URL": entrance.monitor_url}
    copier = await Copier(single, entrance.url, **target).start()
    await cluster.holds(1)
    leader = await cluster.leader()
    leader.kill9()
    await copier.result()
    entrance = next(server for server in cluster.servers if server.running)
    if leader is cluster.servers[0]:
        leader.start()
        entrance = leader
    result = await until_moved(single, entrance, RIDGES_TARGET_STREAM_REPLICAS="3")
    assert await replicas_of(entrance) == dict.fromkeys(STREAMS, 3)
    assert told(entrance) == told(single)
    assert await waiting(entrance) == 2
    if not leader.running:
        leader.start()
    for stream in STREAMS:
        await cluster.complete(stream, 3)
    [follower, _] = await cluster.followers()
    async with log_of(follower) as store:
        event = one_more()
        assert await store.append(event.run_id, [event]) == last + 1
    assert result["epoch"].endswith("+1")


async def test_from_a_cluster_nothing_acknowledged_is_lost_although_the_leader_is_killed(single, cluster):
    entrance = cluster.servers[0]
    await declared(entrance, 3)
    await filled(entrance, 20)
    code, result = await migrated(entrance, single)
    assert code == 1
    assert "has 3 replicas" in result["summary"]
    assert "RIDGES_STREAM_REPLICAS=1 python -m ridges.chassis.migrate" in result["summary"]
    assert await stream_of(single) is None
    writers = Writers(entrance, 2)
    try:
        await declared(entrance, 1)
        await cluster.complete("EVENTS", 1)
        leader = await cluster.leader()
        copier = await Copier(entrance, single.url, RIDGES_TARGET_NATS_MONITOR_URL=single.monitor_url).start()
        await until_it_holds(single, 1)
        leader.restart()
        await copier.result()
        await cluster.leader()
        await until_moved(entrance, single)
        reasons = await writers.ended()
    finally:
        await writers.stop()
    assert all(isinstance(reason, LogMismatch | EventStoreUnavailable) for reason in reasons), reasons
    await _moved_for_good(cluster, single)
    copied = told(single)
    assert copied == told(entrance)
    assert writers.acknowledged
    assert writers.acknowledged.items() <= {event_id: position for position, _, event_id, _ in copied}.items()


async def _moved_for_good(cluster, new):
    """Whichever server is asked, also after all of them were killed."""
    for server in cluster.servers:
        server.restart()
    await cluster.leader()
    for server in cluster.servers:
        with pytest.raises(LogMismatch, match=f"has moved to {new.url}"):
            async with log_of(server) as store:
                await store.ready()
        async with server.client() as nc:
            with pytest.raises(Exception, match="exceeds"):
                await nc.jetstream().publish("ev.r.RunCancelled", b"{}")


async def test_a_closed_log_stays_closed_when_its_leader_is_killed_before_the_handover(single, cluster):
    entrance = cluster.servers[0]
    await declared(entrance, 1)
    last = await filled(entrance, 3)
    await closed_half_way(entrance, single)
    leader = await cluster.leader()
    leader.restart()
    await cluster.leader()
    for server in cluster.servers:
        async with server.client() as nc:
            with pytest.raises(Exception, match="exceeds"):
                await nc.jetstream().publish("ev.r.RunCancelled", b"{}")
    result = await until_moved(entrance, single)
    assert result["events"] == last
    assert told(single) == told(entrance)


async def test_a_target_that_cannot_keep_so_many_copies_is_refused(single, cluster, tmp_path):
    await declared(single, 1)
    last = await filled(single, 2)
    other = NatsServer(tmp_path / "other").start()
    try:
        code, result = await migrated(single, other, RIDGES_TARGET_STREAM_REPLICAS="3")
        assert code == 1
        assert "asks for 3 copies" in result["summary"]
        assert "nothing was closed" in result["summary"]
        assert await stream_of(other) is None
    finally:
        other.kill9()
    code, result = await migrated(single, cluster.servers[0], RIDGES_TARGET_STREAM_REPLICAS="5")
    assert code == 1
    assert "at least 5 servers that are up" in result["summary"]
    async with log_of(single) as store:
        event = one_more()
        assert await store.append(event.run_id, [event]) == last + 1
