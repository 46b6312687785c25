"""Each hostile program: how it is run, and what must be true of its end. ``programs/<class>/<name>.py`` -> case.

A program prints ``BROKE OUT`` when it got what it must not get; that is looked for in all of them.
"""

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sandboxes import SMALL

from ridges.contracts.faults import Cause
from ridges.contracts.run_token import verify_run_token
from ridges.sandbox_manager.outcomes import AgentOutcome
from ridges.sandbox_manager.ports import SandboxExit, SandboxSpec
from ridges.sandbox_manager.proxy_config import ROUTES

PROGRAMS = Path(__file__).parent / "programs"
KEY = b"k" * 32


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of a program."""

    spec: SandboxSpec
    end: SandboxExit
    outcome: AgentOutcome
    took_s: float
    calls: list[tuple[str, str, str]]
    """What reached the gateway from it: method, path, Authorization."""


def anything(_: Ended) -> None:
    """It ended in time, broke out of nothing, left nothing: for programs in company, which their tests judge."""


@dataclass(frozen=True, kw_only=True)
class Case:
    must: Callable[[Ended], None] = anything
    timeout_s: float = 25
    outputs: dict[str, int] = field(default_factory=dict)
    proxied: bool = False
    """It gets a real nginx in front of a gateway that writes down what it is asked."""
    as_agent: bool = False
    """It is loaded by the agent runner, with all that agents get, beside a real problem."""


def says(*words: str, exit_code: int | None = 0) -> Callable[[Ended], None]:
    def must(ended: Ended) -> None:
        log = ended.end.log.decode()
        assert all(word in log for word in words), log[-2000:]
        assert ended.end.exit.exit_code == exit_code, (ended.end.exit, log[-2000:])

    return must


def quiet(ended: Ended) -> None:
    assert ended.end.exit.exit_code == 0, (ended.end.exit, ended.end.log[-2000:])


def killed_for_time(log: str) -> Callable[[Ended], None]:
    def must(ended: Ended) -> None:
        assert ended.end.exit.timed_out
        assert ended.end.log == log.encode()
        assert ended.end.difference == b""

    return must


def ends(cause: Cause, *, without: str = "\x1b") -> Callable[[Ended], None]:
    """As an agent: without a patch, for this reason, told in words that harm no terminal."""

    def must(ended: Ended) -> None:
        assert (ended.outcome.cause, ended.outcome.patch) == (cause, None), ended.outcome
        assert without not in (ended.outcome.detail or "")
        assert len(ended.outcome.detail or "") < 5000

    return must


# -- resources


def out_of_memory(ended: Ended) -> None:
    assert ended.end.exit.out_of_memory or b"MemoryError" in ended.end.log, ended.end.exit
    assert ended.end.exit.exit_code != 0
    assert (ended.end.exit.peak_memory_bytes or 0) < 2 * SMALL.memory_bytes


def bounded(*words: str, or_killed_by: int | None = None) -> Callable[[Ended], None]:
    """It came to its last words within its memory, or its end says that memory (or that signal) was it."""

    def must(ended: Ended) -> None:
        facts, log = ended.end.exit, ended.end.log.decode("utf-8", "replace")
        assert 0 < (facts.peak_memory_bytes or 0) < 2 * SMALL.memory_bytes, facts
        told = facts.exit_code == 0 and all(word in log for word in words)
        killed = or_killed_by is not None and facts.exit_code == -or_killed_by
        assert told or killed or facts.out_of_memory or "MemoryError" in log, (facts, log[-2000:])

    return must


def inode_bomb(ended: Ended) -> None:
    facts = ended.end.exit
    assert facts.timed_out or facts.out_of_memory or b"made" in ended.end.log, (facts, ended.end.log[-2000:])
    assert 0 < (facts.peak_memory_bytes or 0) < 2 * SMALL.memory_bytes, facts
    assert (ended.end.difference is None) == (ended.end.difference_problem is not None)


def survived_its_child(ended: Ended) -> None:
    says("parent lives")(ended)
    assert not ended.end.exit.out_of_memory


def fork_bomb(ended: Ended) -> None:
    assert ended.end.exit.timed_out or ended.end.exit.exit_code is not None
    assert ended.end.difference == b""


def disk_bomb(ended: Ended) -> None:
    assert b"wrote" in ended.end.log
    assert ended.end.difference is not None, ended.end.difference_problem


def log_bomb(ended: Ended) -> None:
    assert ended.end.exit.log_truncated_chars > 50_000_000
    assert ended.end.log.startswith(b"<truncated ")


def one_huge_line(ended: Ended) -> None:
    assert ended.end.log.endswith(b"xlast word")
    assert ended.end.exit.log_truncated_chars == 200_000_009 - SMALL.log_chars


# -- time


def before_the_deadline(ended: Ended) -> None:
    """Where 50 ms are too little on a busy machine, it was too late: but never half of both."""
    facts = ended.end.exit
    assert facts.timed_out == (facts.exit_code is None)
    if facts.exit_code == 0:
        assert ended.end.output("/sandbox/result").content == b"complete"


def late(ended: Ended) -> None:
    assert ended.end.exit.timed_out
    wall_s = ended.end.exit.wall_s
    assert 1 <= wall_s < 4
    assert wall_s - 0.5 < float(ended.end.output("/sandbox/late").content) < wall_s + 0.5


def daemons(ended: Ended) -> None:
    says("main is done")(ended)
    assert ended.end.exit.wall_s < 6


# -- output


def none_is_read(ended: Ended) -> None:
    assert all(file.content is None for file in ended.end.outputs)
    large = {file.path for file in ended.end.outputs if file.problem == "too_large"}
    assert large == {"/sandbox/sparse", "/sandbox/large"}


def honest_or_nothing(ended: Ended) -> None:
    file = ended.end.output("/sandbox/result")
    assert file.content in (b"honest", b"", None)


def forged(ended: Ended) -> None:
    assert ended.end.exit.exit_code == 9
    assert b"forged" in ended.end.log


# -- the difference


def difference_has(*texts: bytes, lacks: tuple[bytes, ...] = (b"root:x:0", b"trapped")) -> Callable[[Ended], None]:
    def must(ended: Ended) -> None:
        assert ended.end.difference is not None, ended.end.difference_problem
        assert all(text in ended.end.difference for text in texts), ended.end.difference[:3000]
        assert not any(text in ended.end.difference for text in lacks)

    return must


def not_trapped(ended: Ended) -> None:
    difference_has(b"+honest", lacks=(b"root:x:0",))(ended)
    assert ended.end.output("/sandbox/trapped").problem == "missing"


def no_difference_but_a_reason(ended: Ended) -> None:
    assert ended.end.difference is None or len(ended.end.difference) <= 16 << 20
    assert (ended.end.difference is None) == (ended.end.difference_problem is not None)


def nothing_of_the_host(ended: Ended) -> None:
    assert b"root:x:0" not in (ended.end.difference or b"")
    assert (ended.end.difference is None) == (ended.end.difference_problem is not None)


# -- the proxy


def only_its_own_calls(ended: Ended) -> None:
    """Whatever it sent: what arrived is a route of the contract, asked as this run."""
    quiet(ended)
    for method, path, authorization in ended.calls:
        assert (method, re.split(r"\?", path)[0]) in ROUTES
        assert verify_run_token(authorization.removeprefix("Bearer "), KEY) == ended.spec.run_id


def nothing_smuggled(ended: Ended) -> None:
    only_its_own_calls(ended)
    assert all(path in {"/api/inference", "/v1/models"} for _, path, _ in ended.calls)


def identity(ended: Ended) -> None:
    only_its_own_calls(ended)
    assert len(ended.calls) >= 5


def still_served(ended: Ended) -> None:
    says("honest call: HTTP/1.1 200")(ended)
    only_its_own_calls(ended)
    assert all(method == "GET" for method, *_ in ended.calls), "a body that never ended reached the gateway"


BAD_OUTPUTS = ("symlink", "proclink", "rootlink/etc/passwd", "fifo", "directory", "sparse", "large", "zero", "socket")

CASES: dict[str, Case] = {
    "resources/fork_bomb": Case(must=fork_bomb, timeout_s=2),
    "resources/thread_bomb": Case(must=says("threads")),
    "resources/zombie_bomb": Case(must=says("dead")),
    "resources/memory_bomb": Case(must=out_of_memory),
    "resources/hidden_memory": Case(must=bounded("hoarded")),
    "resources/shared_memory": Case(must=bounded("hoarded")),
    "resources/pipe_bomb": Case(must=bounded("buffered")),
    "resources/locked_memory": Case(must=quiet),
    "resources/child_out_of_memory": Case(must=survived_its_child),
    "resources/deep_stack": Case(must=says("survived")),
    "resources/disk_bomb": Case(must=disk_bomb),
    "resources/inode_bomb": Case(must=inode_bomb, timeout_s=6),
    "resources/sparse_sea": Case(must=bounded("truncated to 2 ** 24", or_killed_by=signal.SIGBUS)),
    "resources/fd_bomb": Case(must=bounded()),
    "resources/timer_bomb": Case(must=says("timers")),
    "resources/core_bomb": Case(must=says("none")),
    "resources/cpu_bomb": Case(must=quiet),
    "resources/log_bomb": Case(must=log_bomb),
    "resources/one_huge_line": Case(must=one_huge_line),
    "time/daemon": Case(must=daemons),
    "time/deaf": Case(must=killed_for_time("deaf\n"), timeout_s=1),
    "time/kill_everything": Case(must=says("begun", exit_code=-9)),
    "time/stop_everything": Case(must=killed_for_time("begun\n"), timeout_s=2),
    "time/stopped_children": Case(must=says("over")),
    "time/respawner": Case(must=says("watched")),
    "time/slow_death": Case(must=killed_for_time("ready\n"), timeout_s=3),
    "time/writes_after_the_deadline": Case(must=late, timeout_s=1, outputs={"/sandbox/late": 100}),
    "time/ends_just_before": Case(must=before_the_deadline, timeout_s=2, outputs={"/sandbox/result": 100}),
    "time/ends_just_after": Case(must=before_the_deadline, timeout_s=2, outputs={"/sandbox/result": 100}),
    "time/clock": Case(must=quiet),
    "network/ways_out": Case(must=quiet),
    "network/host_services": Case(must=quiet),
    "network/metadata": Case(must=quiet),
    "network/names": Case(must=quiet),
    "network/six": Case(must=quiet),
    "network/raw_frames": Case(must=quiet),
    "network/reconfigures": Case(must=quiet),
    "escape/host_files": Case(must=quiet),
    "escape/kernel_surface": Case(must=quiet),
    "escape/trace_supervisor": Case(must=quiet),
    "escape/control_groups": Case(must=quiet),
    "escape/setuid_programs": Case(must=says("looked at")),
    "escape/devices": Case(must=quiet),
    "escape/namespaces": Case(must=quiet),
    "escape/proc_tricks": Case(must=says("tried")),
    "escape/engine_sockets": Case(must=quiet),
    "escape/old_calls": Case(must=quiet),
    "escape/keyrings": Case(must=quiet),
    "escape/inherited": Case(must=quiet),
    "escape/terminals": Case(must=quiet),
    "escape/victims_of_memory": Case(must=out_of_memory),
    "output/bad_outputs": Case(
        must=none_is_read, outputs={f"/sandbox/{name}": 100_000 for name in (*BAD_OUTPUTS, "loop", "loop/x")}
    ),
    "output/swaps_while_read": Case(must=honest_or_nothing, outputs={"/sandbox/result": 1000}),
    "output/hard_links": Case(must=says("linked"), outputs={"/sandbox/one999": 1000}),
    "output/deep_tree": Case(must=says("dug"), outputs={"/sandbox/deep/" + "d" * 20: 10, "/sandbox/deep/loop/x": 10}),
    "output/forge_result": Case(must=forged),
    "output/os_exit": Case(must=says("half a li", exit_code=3)),
    "output/not_text": Case(must=quiet),
    "output/deep_json": Case(must=ends(Cause.AGENT_OUTPUT_UNSAFE), as_agent=True),
    "output/odd_json": Case(must=ends(Cause.AGENT_OUTPUT_UNSAFE), as_agent=True),
    "output/huge_patch": Case(must=ends(Cause.PATCH_INVALID), as_agent=True),
    "output/no_text": Case(must=ends(Cause.PATCH_INVALID), as_agent=True),
    "output/terminal_escapes": Case(must=ends(Cause.AGENT_RAISED), as_agent=True),
    "output/replaces_the_runner": Case(must=ends(Cause.AGENT_OUTPUT_UNSAFE), as_agent=True),
    "output/fills_before_the_report": Case(must=says("full", exit_code=1), as_agent=True),
    "patch/maze": Case(must=difference_has(b"b/wide-2999")),
    "patch/git_traps": Case(must=not_trapped, outputs={"/sandbox/trapped": 10}),
    "patch/odd_names": Case(must=difference_has(b'"b/\\377\\376"', b'"b/\\033[2J')),
    "patch/git_file": Case(must=difference_has(b"+honest")),
    "patch/links_out": Case(must=difference_has(b"+/etc/shadow", b"120000")),
    "patch/nested_repositories": Case(must=nothing_of_the_host),
    "patch/huge_difference": Case(must=no_difference_but_a_reason),
    "patch/swapped_tree": Case(must=nothing_of_the_host),
    "proxy/identity": Case(must=identity, proxied=True),
    "proxy/targets": Case(must=only_its_own_calls, proxied=True),
    "proxy/smuggling": Case(must=nothing_smuggled, proxied=True),
    "proxy/floods_its_way_out": Case(must=still_served, proxied=True, timeout_s=60),
    "proxy/stands_in_for_it": Case(must=still_served, proxied=True),
    "proxy/slow_and_huge": Case(must=still_served, proxied=True),
    "proxy/its_directory": Case(must=quiet, proxied=True),
    "proxy/errors": Case(must=only_its_own_calls, proxied=True),
    "proxy/crowd_the_proxy": Case(must=says("answer HTTP/1.1 200"), proxied=True),
    "secrets/canaries": Case(must=ends(Cause.AGENT_NOT_LOADABLE), as_agent=True),
    "secrets/tracebacks": Case(must=ends(Cause.AGENT_NOT_LOADABLE), as_agent=True),
    "hidden/tests_and_reference": Case(must=ends(Cause.AGENT_NOT_LOADABLE), as_agent=True),
    "hidden/future_commits": Case(must=ends(Cause.AGENT_NOT_LOADABLE), as_agent=True),
}
"""Besides these: the programs that need company (``hostile_suite``), the cheating patches (``cheats``)."""

IN_COMPANY = frozenset(
    f"network/{name}" for name in ("sibling_listens", "sibling_calls", "leaves_for_the_next", "looks_for_the_last")
)
