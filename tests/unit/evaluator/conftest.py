"""A log, blobs and a run in them."""

from pathlib import Path

import pytest
from grading import CREATE, FIX, write_folder

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.clock import SystemClock
from ridges.chassis.memory_store import MemoryEventStore
from ridges.contracts import events as ev
from ridges.contracts.limits import RunLimits
from ridges.evaluator.handlers import Evaluations
from ridges.evaluator.patches import PatchLimits
from ridges.evaluator.problems.editions import Editions
from ridges.evaluator.publisher import Publisher
from ridges.evaluator.subscribers import Subscribers

DEFAULT_LIMITS = RunLimits()


class World:
    """The evaluator's parts over an in-memory log, and the events that others would append."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self.store = MemoryEventStore(self.clock)
        self.blobs = MemoryBlobStore()
        self.publisher = Publisher(store=self.store, blobs=self.blobs, clock=self.clock, dirs=[folder], rescan_s=60)
        self.subscribers = self.another_evaluator()

    def another_evaluator(self) -> Subscribers:
        limits = PatchLimits(max_bytes=100_000, max_files=20)
        return Subscribers(
            Evaluations(
                store=self.store, blobs=self.blobs, clock=self.clock, editions=Editions(self.blobs), patch_limits=limits
            )
        )

    async def append(self, kind, run_id: str, **fields):
        event = kind(id=self.clock.new_id(), run_id=run_id, time=self.clock.now(), **fields)
        position = await self.store.append(run_id, [event])
        return next(entry for entry in await self.store.read_run(run_id) if entry.position == position)

    async def start_run(self, problem_id: str, limits: RunLimits = DEFAULT_LIMITS) -> str:
        """A run whose agent is at work."""
        problem = self.publisher.find(problem_id)
        published = (await self.store.read_run(f"problem-{problem_id}"))[-1].event
        run_id = self.clock.new_id()
        agent = await self.blobs.put(b"def agent_main(_): ...", "text/x-python")
        await self.append(
            ev.RunRequested, run_id, problem_id=problem_id, problem_digest=problem.problem_digest,
            statement=published.statement, workspace=published.workspace, agent=agent, agent_name="a.py", limits=limits,
        )  # fmt: skip
        await self.start_agent(run_id, 1)
        return run_id

    async def start_agent(self, run_id: str, attempt: int) -> None:
        await self.append(ev.AgentStarted, run_id, attempt=attempt, manager="m", sandbox="process")

    async def produce(self, run_id: str, patch: bytes, attempt: int = 1, cause=None):
        """PatchProduced, as the queue would deliver it."""
        return await self.append(
            ev.PatchProduced, run_id, attempt=attempt, patch=await self.blobs.put(patch, "text/x-diff"),
            partial=cause is not None, cause=cause, detail="its time was over" if cause else None,
            log=await self.blobs.put(b"log", "text/plain"), exit=ev.ExitFacts(exit_code=0),
        )  # fmt: skip

    async def exit(self, asked: ev.EvaluationRequested, report: bytes | None, **fields):
        """EvaluationSandboxExited, as the queue would deliver it."""
        content = None if report is None else await self.blobs.put(report, "application/json")
        output = ev.SandboxOutput(
            path="/sandbox/grading/report.json", content=content, problem=None if content else "missing"
        )
        fields = {"exit": ev.ExitFacts(exit_code=0), "outputs": (output,)} | fields
        return await self.append(ev.EvaluationSandboxExited, asked.run_id, evaluation_id=asked.evaluation_id, **fields)

    async def events(self, run_id: str, kind) -> list:
        return [entry.event for entry in await self.store.read_run(run_id) if isinstance(entry.event, kind)]


@pytest.fixture
async def world(tmp_path):
    """With the problems ``tiny-create`` and ``tiny-fix``, published."""
    write_folder(tmp_path / "problems" / "tiny-create", CREATE)
    write_folder(tmp_path / "problems" / "tiny-fix", FIX)
    made = World(tmp_path / "problems")
    await made.publisher.scan()
    return made
