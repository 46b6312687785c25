"""The one port of this service: a place where a program that nobody trusts runs once."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from ridges.contracts.events import ExitFacts, SandboxFile
from ridges.contracts.limits import SandboxLimits

PROXY_URL = "{proxy_url}"
"""Put this text into values of ``SandboxSpec.env``: the supervisor replaces it by the base URL of the run's proxy
inside the sandbox (``http://127.0.0.1:<port>``), which only it knows. It must not be used when ``proxy_dir`` is
null."""

PROXY_SOCKET = "proxy.sock"
"""Name of the Unix socket in ``SandboxSpec.proxy_dir``; it must be connectable by every uid (mode 0666)."""

WORKSPACE = "/sandbox"
"""Working directory of every command. The ``process`` adapter, which has no mount tree of its own, puts its own
directory in place of this prefix in command, environment and output paths."""

OutputProblem = Literal["missing", "not_a_regular_file", "too_large"]


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One sandbox: what goes in, what runs, what it may use, what comes out."""

    sandbox_id: str
    """UUID, unique per sandbox; on every resource, so that ``sweep`` can tell leftovers."""
    run_id: str
    kind: Literal["agent", "evaluation"]
    image: str | None = None
    """For adapters that have images; null = their default."""
    files: tuple[bytes, ...]
    """Uncompressed tars, unpacked to ``/sandbox`` in this order. Regular files, directories and relative symlinks only;
    owner and times are not kept, of the mode only the x bit is."""
    command: tuple[str, ...]
    """Program (found by the sandbox's PATH) and arguments. stdin is empty, stdout and stderr are one."""
    preload: tuple[str, ...] = ()
    """Modules that the command, ``python3 [-I] <script> …``, imports from the installation (``package.*``: with all in
    it): an adapter may run it in a process that has them loaded."""
    pytest: tuple[str, ...] = ()
    """Arguments with which it runs pytest, ``--rootdir`` and ``-c`` below ``/sandbox`` among them: an adapter may have
    the preloaded pytest read them, and what came of it in the module ``ready_pytest``."""
    env: dict[str, str]
    """Added to the sandbox's own PATH, HOME, LANG, TMPDIR, and wins. Nothing of the manager's environment gets in."""
    limits: SandboxLimits
    timeout_s: float
    """For the command alone; unpacking and collecting have limits of their own."""
    proxy_dir: Path | None = None
    """Host directory that holds ``proxy.sock``: the sandbox's only way out. Null = none at all."""
    outputs: tuple[SandboxFile, ...] = ()
    """Read after every process is dead; never through a symlink."""
    repo: bool = False
    """Commit ``/sandbox/repo`` afresh before the command and return its difference at the end."""
    deadline: datetime
    """When this sandbox must be gone whatever happens, UTC: written on its resources for operators and sweeps."""
    on_log: Callable[[int, bytes], None] | None = None
    """Called with pieces of the log while the command runs: offset in the log, bytes. Best effort: a command that
    writes fast has gaps between them, and none may come at all. The whole log is in ``SandboxExit``."""
    on_difference: Callable[[bytes], None] | None = None
    """Called while the command runs with the difference of ``repo`` so far, when it changed: the command's word as much
    as the repository is. Best effort: none comes that is large, or while the command is in its way."""
    difference_every_s: float = 0.0
    """How often; the first one after 5 s at the latest. 0 = never."""
    on_usage: Callable[[ExitFacts], None] | None = None
    """Called while the command runs, as often as ``on_difference``, with what the whole sandbox has used so far."""
    on_exit: "Callable[[SandboxExit], None] | None" = None
    """Called once with what ``run`` will return, as soon as nothing of the command runs any more: before the sandbox is
    removed, which takes longer than telling what it left."""

    def told(self, left: "SandboxExit") -> "SandboxExit":
        """The same, after ``on_exit`` was called with it. For adapters."""
        if self.on_exit:
            self.on_exit(left)
        return left


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """One of the files asked for. Exactly one of ``content`` and ``problem`` is null."""

    path: str
    content: bytes | None = None
    problem: OutputProblem | None = None


class SandboxExit(msgspec.Struct, frozen=True, kw_only=True):
    """What was left of a sandbox that is gone. Everything in it was chosen by the agent, except ``exit``."""

    exit: ExitFacts
    log: bytes
    """UTF-8, at most ``limits.log_chars`` characters after a prefix ``<truncated N chars>`` (when cut)."""
    outputs: tuple[OutputFile, ...]
    """In the order of ``SandboxSpec.outputs``."""
    difference: bytes | None = None
    """``git diff --binary`` of ``/sandbox/repo`` against the base commit, new files that are not ignored included, byte
    code not. b"" = nothing changed; null = not asked for, or see ``difference_problem``."""
    difference_problem: str | None = None
    """Why there is no difference (too large, took too long, git failed)."""

    def output(self, path: str) -> OutputFile:
        """The file asked for under that path. Raises ``KeyError`` when it was not asked for."""
        for file in self.outputs:
            if file.path == path:
                return file
        raise KeyError(path)


class Sandbox(Protocol):
    """A technology that runs sandboxes. Adapters are safe to share between asyncio tasks of one loop."""

    @property
    def name(self) -> str:
        """``docker``, ``bubblewrap`` or ``process``, as in ``AgentStarted.sandbox``."""

    async def check(self) -> None:
        """Run a self-test: returns when a sandbox was started, was as tight as it must be, and is gone.

        Raises:
            SandboxUnavailable: with the reason and what to do. Never falls back to less isolation.
        """

    async def admit(self, spec: SandboxSpec) -> None:
        """Returns when nothing that is known beforehand forbids a sandbox of this spec. Starts nothing.

        Raises:
            ImageMissing: its image is not here.
            LimitsRefused: it asks for more than the operator allows.
            SandboxUnavailable: nobody answers who could tell.
        """

    async def run(self, spec: SandboxSpec, cancelled: asyncio.Event) -> SandboxExit:
        """Run one sandbox to its end: command exited, ``timeout_s`` over, out of memory, or ``cancelled`` set.

        All these ends return normally, with log, outputs and difference; ``exit`` says which it was. Nothing is left
        behind, whether this returns, raises, or is itself cancelled by asyncio (then nothing is collected). What it
        raises after ``spec.on_exit`` was called is about the removal alone.

        Raises:
            SandboxUnavailable: nothing could be started.
            ImageMissing: the image is not here.
            SandboxFailed: it was started but broke, or what came out of it was no result.
        """

    async def sweep(self, live: set[str]) -> int:
        """Remove what dead managers and lost sandboxes left, by our own marks only; returns how many were removed.

        Args:
            live: sandbox ids of this manager that must stay, besides those that this adapter runs itself.
        """
