"""Sandboxes without processes: agents that call models and end in every way, and a grader that reads the patch."""

import asyncio
import contextlib
import io
import random
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import msgspec
from unit.gateway.support import chat
from unit.sandbox_manager.samples import left

from ridges.contracts.events import ExitFacts
from ridges.evaluator.bundle import plan_of
from ridges.evaluator.domain import GraderReport, Plan, Round, RoundReport
from ridges.gateway.errors import GatewayError
from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.ports import OutputFile, SandboxExit, SandboxSpec

TRIES = 3
WRONG_PATCH = b"""\
diff --git a/main.py b/main.py
--- a/main.py
+++ b/main.py
@@ -1,2 +1,2 @@
 def roman(number):
-    raise NotImplementedError
+    return "wrong"
"""
ENDINGS = {"solves": 60, "wrong": 15, "nothing": 4, "raises": 5, "partial": 4, "hangs": 4, "broken": 4, "missing": 4}
"""How agents end, with weights. ``broken`` and ``missing`` are the sandbox's fault, not theirs."""

AskModel = Callable[[str, object], Awaitable[None]]
"""One model call of a run through one of the gateways. Raises GatewayError or ConnectionError."""


class SimulatedSandbox:
    """The ``Sandbox`` of one manager's life."""

    name = "docker"

    def __init__(self, seed: str, ask: AskModel, ended: Callable[[str, str], None], reference: Callable[[], bytes]):
        self._seed, self._ask, self._ended, self._reference = seed, ask, ended, reference
        self._started = 0

    async def check(self) -> None:
        """Always fit."""

    async def sweep(self, live: set[str]) -> int:
        return 0

    async def admit(self, spec: SandboxSpec) -> None:
        """Whatever it is."""

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        dice = random.Random(f"{self._seed}/{spec.sandbox_id}")
        work = self._agent(spec, dice) if spec.kind == "agent" else self._grader(spec, dice)
        working = asyncio.ensure_future(work)
        cancelling = asyncio.ensure_future(cancelled.wait())
        try:
            await asyncio.wait((working, cancelling), timeout=spec.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                ended = working.result()
            elif cancelled.is_set():
                ended = left(cancelled=True, exit_code=None)
            else:
                ended = left(timed_out=True, exit_code=None, wall_s=spec.timeout_s)
            spec.told(ended)
            await asyncio.sleep(dice.uniform(0.0, 0.5))  # it is removed
            return ended
        finally:
            cancelling.cancel()
            working.cancel()

    async def _agent(self, spec: SandboxSpec, dice: random.Random) -> SandboxExit:
        ending = dice.choices(list(ENDINGS), list(ENDINGS.values()))[0]
        self._ended(spec.run_id, ending)
        if ending == "missing":
            raise SandboxUnavailable("the simulated engine is away", "start it")
        calls = 0
        for _ in range(dice.choice((0, 1, 2, 2, 3))):
            await asyncio.sleep(dice.expovariate(1.0))
            together = [self._call(spec.run_id, calls + i, dice) for i in range(dice.choice((1, 1, 2, 4)))]
            calls += len(together)
            await asyncio.gather(*together)
        return await self._ending(spec, ending)

    async def _ending(self, spec: SandboxSpec, ending: str) -> SandboxExit:
        match ending:
            case "broken":
                raise SandboxFailed(spec.run_id, "the simulated sandbox broke")
            case "hangs":
                await asyncio.get_running_loop().create_future()
            case "raises":
                return left(b'{"success": false, "error": "no idea", "kind": "raised"}', exit_code=1)
            case "partial":
                return left(exit_code=-9, difference=WRONG_PATCH)
        patch = {"solves": self._reference(), "wrong": WRONG_PATCH}.get(ending, b"")
        return left(msgspec.json.encode({"success": True, "output": patch.decode()}))

    async def _call(self, run_id: str, number: int, dice: random.Random) -> None:
        """Like a sensible client: tries again, with the same key when it has one."""
        text = f"{run_id} {number} " + "word " * dice.randrange(60)
        key = f"{number}-{dice.random()}" if dice.random() < 0.3 else None
        call = chat(
            text=text, received=text.encode(), streamed=dice.random() < 0.3, idempotency_key=key, output_tokens=None
        )
        patience_s = dice.uniform(0.5, 4.0) if dice.random() < 0.08 else None  # some leave before the answer
        for _ in range(TRIES):
            try:
                async with asyncio.timeout(patience_s):
                    await self._ask(run_id, call)
            except (GatewayError, ConnectionError) as failure:
                if isinstance(failure, GatewayError) and failure.status in (400, 402, 403, 404):
                    return
                await asyncio.sleep(dice.uniform(0.2, 3.0))
            except TimeoutError:
                return
            else:
                return

    async def _grader(self, spec: SandboxSpec, dice: random.Random) -> SandboxExit:
        await asyncio.sleep(dice.uniform(0.5, 5.0))
        if dice.random() < 0.04:
            raise SandboxFailed(spec.run_id, "the simulated sandbox broke")
        (bundle,) = spec.files
        report = graded(plan_of(bundle), solved=b"PARTS" in _file_in(bundle, "patch.diff"))
        content = msgspec.json.encode(report)
        outputs = (OutputFile(path=spec.outputs[0].path, content=content),)
        return SandboxExit(exit=ExitFacts(exit_code=0), log=b"graded", outputs=outputs)


class NoProxies:
    """Agents here reach the gateway without one."""

    @contextlib.asynccontextmanager
    async def serve(self, run_id, sandbox_id, max_connections):
        yield Path("/run") / sandbox_id

    def sweep(self, live):
        return 0


def graded(plan: Plan, *, solved: bool) -> GraderReport:
    """What the grader would write."""
    rounds = tuple(RoundReport(exit_code=1, junit=_junit(part, solved=solved)) for part in plan.rounds)
    return GraderReport(nonce=plan.nonce, applied=True, rounds=rounds)


def _junit(part: Round, *, solved: bool) -> str:
    passes = {f"{part.canary_file}::{name}": True for name in part.must_pass}
    passes |= {f"{part.canary_file}::{name}": False for name in part.must_fail}
    passes |= {f"{part.folder}/{test}": solved and part.kind == "tests" for test in part.select}
    cases = "".join(_case(test, passed) for test, passed in passes.items())
    return f"<testsuites><testsuite>{cases}</testsuite></testsuites>"


def _case(test: str, passed: bool) -> str:
    path, *names = test.split("::")
    owner = ".".join([path.replace("/", ".").removesuffix(".py"), *names[:-1]])
    inside = "" if passed else '<failure message="no"/>'
    return f"<testcase classname={quoteattr(owner)} name={quoteattr(names[-1])}>{inside}</testcase>"


def _file_in(bundle: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()
