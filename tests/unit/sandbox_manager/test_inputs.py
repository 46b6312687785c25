"""What agents get is kept for the next run."""

import asyncio

import msgspec
import pytest
from unit.sandbox_manager.samples import WORKSPACE, requested, tar_of

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.ports import BlobMissing
from ridges.sandbox_manager import inputs as module
from ridges.sandbox_manager.agent_sandbox import BrokenWorkspace, below_repo
from ridges.sandbox_manager.inputs import Inputs


class CountingBlobStore(MemoryBlobStore):
    def __init__(self):
        super().__init__()
        self.read = 0

    async def get(self, digest):
        self.read += 1
        return await super().get(digest)


@pytest.fixture
def blobs():
    return CountingBlobStore()


async def run_of(blobs, agent=b"agent", workspace=WORKSPACE):
    stored = {"agent": agent, "statement": b"do it", "workspace": workspace}
    refs = {name: await blobs.put(content, "x/y") for name, content in stored.items()}
    return msgspec.structs.replace(requested(), **refs)


async def test_the_next_run_of_a_problem_reads_only_its_agent(blobs):
    inputs = Inputs(blobs)
    first = await inputs.of(await run_of(blobs))
    assert (first.agent, first.statement, first.repo) == (b"agent", b"do it", below_repo(WORKSPACE))
    assert blobs.read == 3
    second = await inputs.of(await run_of(blobs, agent=b"another"))
    assert (second.agent, second.statement, second.repo) == (b"another", first.statement, first.repo)
    assert blobs.read == 4


async def test_what_is_missing_or_broken_is_told_each_time(blobs):
    inputs = Inputs(blobs)
    broken = await run_of(blobs, workspace=b"no tar" * 200)
    missing = msgspec.structs.replace(broken, workspace=(await MemoryBlobStore().put(tar_of({"x": b"y"}), "x/y")))
    for _ in range(2):
        with pytest.raises(BrokenWorkspace):
            await inputs.of(broken)
        with pytest.raises(BlobMissing):
            await inputs.of(missing)


async def test_no_more_is_kept_than_may_be(blobs, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 50_000)
    monkeypatch.setattr(module, "LARGEST_BYTES", 30_000)
    inputs = Inputs(blobs)
    runs = [await run_of(blobs, agent=bytes([number]) * 20_000) for number in range(6)]
    runs += [await run_of(blobs, agent=b"x" * 40_000)]
    for _ in range(2):
        found = await asyncio.gather(*map(inputs.of, runs))
        assert [len(one.agent) for one in found] == [20_000] * 6 + [40_000]
    assert sum(map(len, [*inputs._contents.values(), *inputs._repos.values()])) <= 50_000
