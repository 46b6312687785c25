"""Events and exits for unit tests."""

import io
import tarfile
from datetime import UTC, datetime

from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.faults import Cause
from ridges.contracts.limits import RunLimits, SandboxLimits
from ridges.sandbox_manager.outcomes import OUTPUT_PATH
from ridges.sandbox_manager.ports import OutputFile, SandboxExit

RUN = "0191e0a0-0000-7000-8000-000000000001"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_count = iter(range(10**9))


def envelope() -> dict[str, object]:
    return {"id": f"event-{next(_count)}", "run_id": RUN, "time": NOW}


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


AGENT, STATEMENT, WORKSPACE = b"def agent_main(p): return ''", b"Mend it.", tar_of({"a.txt": b"one\n"})


def requested(**fields: object) -> ev.RunRequested:
    return ev.RunRequested(
        **envelope()
        | {
            "problem_id": "p",
            "problem_digest": "sha256:" + "0" * 64,
            "statement": ref_to(STATEMENT, "text/markdown"),
            "workspace": ref_to(WORKSPACE, "application/x-tar"),
            "agent": ref_to(AGENT, "text/x-python"),
            "agent_name": "agent.py",
            "limits": RunLimits(agent_timeout_s=60),
        }
        | fields
    )


def started(attempt: int) -> ev.AgentStarted:
    return ev.AgentStarted(**envelope(), attempt=attempt, manager="m", sandbox="fake")


def produced(attempt: int) -> ev.PatchProduced:
    blob = ref_to(b"x", "text/plain")
    return ev.PatchProduced(
        **envelope(), attempt=attempt, patch=blob, partial=False, cause=None, log=blob, exit=ev.ExitFacts(exit_code=0)
    )


def failed(attempt: int, cause: Cause = Cause.AGENT_RAISED) -> ev.AgentFailed:
    return ev.AgentFailed(**envelope(), attempt=attempt, cause=cause, detail="d")


def cancelled() -> ev.RunCancelled:
    return ev.RunCancelled(**envelope(), reason="enough")


def evaluation_requested(attempt: int = 1, evaluation_id: str = "e1", bundle: bytes = b"tar") -> ev.EvaluationRequested:
    return ev.EvaluationRequested(
        **envelope(),
        evaluation_id=evaluation_id,
        attempt=attempt,
        bundle=ref_to(bundle, "application/x-tar"),
        command=("python3", "grade.py"),
        outputs=(ev.SandboxFile(path="/sandbox/report.xml", max_bytes=100),),
        limits=SandboxLimits(),
        timeout_s=30,
    )


def evaluation_started(evaluation_id: str = "e1") -> ev.EvaluationStarted:
    return ev.EvaluationStarted(**envelope(), evaluation_id=evaluation_id, manager="m", sandbox="fake")


def evaluation_exited(evaluation_id: str = "e1") -> ev.EvaluationSandboxExited:
    return ev.EvaluationSandboxExited(
        **envelope(), evaluation_id=evaluation_id, exit=ev.ExitFacts(exit_code=0), outputs=()
    )


def left(
    output: bytes | None = None,
    *,
    problem: str | None = None,
    difference: bytes | None = b"",
    difference_problem: str | None = None,
    **facts: object,
) -> SandboxExit:
    """What an agent's sandbox left; without output and problem, output.json is missing."""
    problem = problem or (None if output is not None else "missing")
    return SandboxExit(
        exit=ev.ExitFacts(**{"exit_code": 0} | facts),
        log=b"log",
        outputs=(OutputFile(path=OUTPUT_PATH, content=output, problem=problem),),
        difference=difference,
        difference_problem=difference_problem,
    )
