"""What an agent sandbox amounts to: one table from exits to patches and causes. Pure."""

import json
from typing import Literal

import msgspec

from ridges.contracts.events import ExitFacts
from ridges.contracts.faults import Cause
from ridges.sandbox_manager.ports import SandboxExit

OUTPUT_PATH = "/sandbox/output.json"
MAX_OUTPUT_BYTES = 32 * 1024 * 1024
MAX_PATCH_BYTES = 8 * 1024 * 1024
MAX_DETAIL_CHARS = 2_000


class AgentOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent left. A patch, or a cause, or (a partial patch) both."""

    patch: bytes | None = None
    cause: Cause | None = None
    detail: str | None = None

    @property
    def partial(self) -> bool:
        return self.patch is not None and self.cause is not None


class _AgentOutput(msgspec.Struct):
    """``output.json``. Written by our runner, or by an agent that tampered with it: nothing in it is trusted."""

    success: bool
    output: str | None = None
    error: str | None = None
    traceback: str | None = None
    kind: Literal["not_loadable", "raised", "exited", "no_patch"] = "raised"


_OF_KIND = {
    "not_loadable": Cause.AGENT_NOT_LOADABLE,
    "raised": Cause.AGENT_RAISED,
    "exited": Cause.AGENT_EXITED,
    "no_patch": Cause.AGENT_RETURNED_NO_PATCH,
}
_KEEPS_DIFFERENCE = frozenset(
    {Cause.AGENT_TIMED_OUT, Cause.AGENT_OUT_OF_MEMORY, Cause.AGENT_EXITED, Cause.AGENT_RAISED, Cause.CANCELLED}
)
"""Causes under which the difference of the repository counts as a partial patch."""


def outcome_of(left: SandboxExit, timeout_s: float) -> AgentOutcome:
    """What an agent sandbox amounts to. One that was ended from outside has the cause ``CANCELLED``.

    Args:
        left: what there is of it.
        timeout_s: the limit that it had.
    """
    read = _read_output(left)
    if isinstance(read, _AgentOutput) and read.success:
        return _of_returned(read)
    cause, detail = _cause_of(left.exit, read, timeout_s)
    problem = difference_problem(left)
    if cause in _KEEPS_DIFFERENCE and left.difference and not problem:
        return AgentOutcome(patch=left.difference, cause=cause, detail=detail)
    if cause in _KEEPS_DIFFERENCE and problem:
        detail = f"{detail}; no partial patch: {problem}"
    return AgentOutcome(cause=cause, detail=plain(detail))


def difference_problem(left: SandboxExit) -> str | None:
    """Why the difference of its repository is no patch that anybody could judge; None when it is."""
    if left.difference is None or len(left.difference) <= MAX_PATCH_BYTES:
        return left.difference_problem
    return f"the difference has {len(left.difference)} bytes; at most {MAX_PATCH_BYTES} are taken"


def _read_output(left: SandboxExit) -> _AgentOutput | AgentOutcome | None:
    """The runner's report; None when there is none; an outcome when something else stands in its place."""
    file = left.output(OUTPUT_PATH)
    if file.problem == "missing" or file.content == b"":  # the disk was full before its first byte
        return None
    unsafe = Cause.AGENT_OUTPUT_UNSAFE
    if file.content is None or len(file.content) > MAX_OUTPUT_BYTES:
        words = {"not_a_regular_file": "is not a regular file", "too_large": f"is over {MAX_OUTPUT_BYTES} bytes"}
        return AgentOutcome(cause=unsafe, detail=f"output.json {words[file.problem or 'too_large']}")
    try:
        # not msgspec's decoder: it refuses the half characters that a patch may hold, and then nobody learns why
        return msgspec.convert(json.loads(file.content), _AgentOutput)
    except (ValueError, RecursionError) as error:
        if left.exit.timed_out or left.exit.out_of_memory or left.exit.cancelled:
            return None
        return AgentOutcome(cause=unsafe, detail=plain(f"output.json is not what the runner writes: {error}"))


def _of_returned(read: _AgentOutput) -> AgentOutcome:
    if read.output is None:
        return AgentOutcome(cause=Cause.AGENT_RETURNED_NO_PATCH, detail="the agent returned no patch")
    if not read.output.strip():
        return AgentOutcome(cause=Cause.PATCH_EMPTY, detail="the agent returned an empty patch")
    try:
        patch = read.output.encode()
    except UnicodeEncodeError as error:
        return AgentOutcome(cause=Cause.PATCH_INVALID, detail=f"the patch is not valid Unicode text: {error.reason}")
    if len(patch) > MAX_PATCH_BYTES:
        return AgentOutcome(
            cause=Cause.PATCH_INVALID, detail=f"the patch has {len(patch)} bytes; at most {MAX_PATCH_BYTES} are taken"
        )
    return AgentOutcome(patch=patch)


def _cause_of(exit_facts: ExitFacts, read: _AgentOutput | AgentOutcome | None, timeout_s: float) -> tuple[Cause, str]:
    if isinstance(read, _AgentOutput):
        trace = f"\n{read.traceback}" if read.traceback else ""
        return _OF_KIND[read.kind], plain((read.error or "the agent raised an exception") + trace)
    if isinstance(read, AgentOutcome) and read.cause is not None:
        return read.cause, read.detail or ""
    if exit_facts.cancelled:
        return Cause.CANCELLED, f"the agent was ended after {exit_facts.wall_s:.0f} s"
    if exit_facts.timed_out:
        return Cause.AGENT_TIMED_OUT, f"the agent did not return within its {timeout_s:.0f} s"
    if exit_facts.out_of_memory:
        return Cause.AGENT_OUT_OF_MEMORY, "the agent was killed because it used more memory than its limit"
    return Cause.AGENT_EXITED, f"the agent's process ended with {_code_words(exit_facts.exit_code)} before it returned"


def _code_words(code: int | None) -> str:
    if code is None:
        return "no exit code"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def plain(text: str) -> str:
    """Text of a stranger, fit for an event: valid Unicode, no control characters but line ends, capped at both ends."""
    clean = text.encode("utf-8", "replace").decode("utf-8", "replace")
    clean = "".join(char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in clean)
    if len(clean) <= MAX_DETAIL_CHARS:
        return clean
    half = MAX_DETAIL_CHARS // 2
    return f"{clean[:half]}\n… {len(clean) - 2 * half} characters left out …\n{clean[-half:]}"
