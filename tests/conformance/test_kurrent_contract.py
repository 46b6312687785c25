"""The contract double does what the real KurrentDB does: the same facts, asked through the real client."""

import pytest
from conformance.kurrent_contract_suite import KurrentContractSuite, event
from kurrent_double.cluster import KurrentDouble
from kurrent_server import KurrentServer, kurrentdb_image  # noqa: F401  # a fixture
from kurrentdbclient import AsyncKurrentDBClient, StreamState


class TestTheDouble(KurrentContractSuite):
    @pytest.fixture
    async def kurrentdb(self):
        async with KurrentDouble() as kurrentdb:
            yield kurrentdb

    async def test_the_client_follows_the_leader_of_a_cluster(self):
        async with KurrentDouble(nodes=3) as cluster:
            cluster.elect(1)
            client = AsyncKurrentDBClient(cluster.url)
            await client.append_to_stream("run-a", current_version=StreamState.NO_STREAM, events=event())
            assert client.connection_target == f"127.0.0.1:{cluster.leader.port}"
            cluster.elect(2)
            await client.append_to_stream("run-a", current_version=0, events=event())
            assert client.connection_target == f"127.0.0.1:{cluster.leader.port}"
            await client.close()

    @pytest.mark.parametrize("fault", ["lost", "unacknowledged"])
    async def test_the_client_itself_repeats_an_append_that_broke(self, kurrentdb, fault):
        kurrentdb.leader.faults.append(fault)
        client = AsyncKurrentDBClient(kurrentdb.url)
        await client.append_to_stream("run-a", current_version=StreamState.NO_STREAM, events=event())
        assert kurrentdb.leader.faults == []
        assert len(kurrentdb.log) == 1
        await client.close()


@pytest.mark.registry
@pytest.mark.timeout(300)
class TestKurrentDB(KurrentContractSuite):
    @pytest.fixture
    async def kurrentdb(self, kurrentdb_image):  # noqa: F811
        async with KurrentServer() as kurrentdb:
            yield kurrentdb
