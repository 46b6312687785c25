"""What adapter and supervisor say to each other; the adapter's side of it. Sans-IO: shared by all adapters.

To the supervisor, on its stdin: its program, 4 bytes length, a header (a Python literal), the tars, then any number of
control bytes. stdin stays open until the sandbox has ended: its end tells the supervisor to end everything.

From the supervisor, on its stdout: frames of 1 byte kind, 8 bytes length, payload. ``S`` started; while it runs ``L``
log (8 bytes offset, then bytes) and ``D`` the difference so far; ``C`` everything is dead and is being collected, ``R``
result (4 bytes length, JSON facts, then log, outputs and difference one after the other), ``E`` text of its own
failure. It stays until its stdin ends, so that the adapter can look at its control group.

Everything that is read here may have been written by the agent: every length is capped before it is believed, and a
result must carry the nonce that only the supervisor was told.
"""

import math
import secrets
import struct
from collections.abc import Mapping, Sequence

import msgspec

from ridges.contracts.events import ExitFacts
from ridges.sandbox_manager.errors import SandboxFailed
from ridges.sandbox_manager.inside import supervisor_command, supervisor_program
from ridges.sandbox_manager.ports import WORKSPACE, OutputFile, OutputProblem, SandboxExit, SandboxSpec

CANCEL = b"C"
"""Control byte: end now and hand over what is there."""
OUT_OF_MEMORY = b"M"
"""Control byte: the same, because the adapter saw the memory limit reached."""

MAX_DIFFERENCE_BYTES = 16 * 1024 * 1024
MAX_DIFFERENCE_SO_FAR_BYTES = 8 * 1024 * 1024
MAX_FACTS_BYTES = 64 * 1024
MAX_BYTES_PER_CHAR = 4
_HEAD = struct.Struct(">cQ")
_SIZE = struct.Struct(">I")
_OFFSET = struct.Struct(">Q")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter starts as the sandbox's first process, and what it writes to its stdin."""

    command: tuple[str, ...]
    stdin: tuple[bytes, ...]
    """Write in order; then keep stdin open until the result is complete."""
    nonce: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the adapter saw from outside; it wins over what the supervisor counted."""

    out_of_memory: bool = False
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    pids_peak: int | None = None


class _Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nonce: str
    exit_code: int | None
    timed_out: bool
    cancelled: bool
    out_of_memory: bool
    wall_s: float
    cpu_s: float
    own_cpu_s: float
    """What unpacking files and reading the repository took, which is not the command's."""
    peak_memory_bytes: int
    written_bytes: int | None
    log_dropped_chars: int
    log_size: int
    outputs: tuple[tuple[int | None, OutputProblem | None], ...]
    difference_size: int | None
    difference_problem: str | None


def launch(
    spec: SandboxSpec,
    *,
    env: Mapping[str, str],
    rlimits: Mapping[str, int],
    python: str = "python3",
    program: bytes | None = None,
    proxy_socket: str | None = None,
    proxy_port: int = 0,
    proxy_url: str = "",
    workspace: str = WORKSPACE,
    seccomp: bytes | None = None,
    script: tuple[str, ...] | None = None,
) -> Launch:
    """The supervisor's command and its whole input.

    Args:
        spec: command and output paths as they are inside the sandbox.
        env: the command's complete environment (the adapter's own values and ``spec.env``).
        rlimits: soft and hard limits of the command, by name without ``RLIMIT_`` ("NOFILE", "CORE", "FSIZE", …).
        python: interpreter inside the sandbox.
        program: the supervisor compiled for that interpreter; null = its text, for any interpreter.
        proxy_socket: path of the proxy's socket inside the sandbox; null = no forwarder.
        proxy_port: where the forwarder listens on 127.0.0.1; 0 = any free port.
        proxy_url: base URL of the proxy, where there is no forwarder but somebody else who listens.
        workspace: where the tars go and the command starts.
        seccomp: filter of the command's system calls, for adapters that cannot set it themselves.
        script: of the command and its arguments, to run it in a process that was prepared for it (``inside.prepared``).
    """
    nonce = secrets.token_hex(16)
    header = repr(
        {
            "nonce": nonce,
            "command": spec.command,
            "env": dict(env),
            "rlimits": dict(rlimits),
            "tars": [len(tar) for tar in spec.files],
            "timeout_s": spec.timeout_s,
            "log_bytes": spec.limits.log_chars * MAX_BYTES_PER_CHAR,
            "live_log": spec.on_log is not None,
            "difference_every_s": spec.difference_every_s if spec.on_difference else 0,
            "difference_so_far_bytes": MAX_DIFFERENCE_SO_FAR_BYTES,
            "seccomp": seccomp,
            "script": script,
            "outputs": [(file.path, file.max_bytes) for file in spec.outputs],
            "difference_bytes": MAX_DIFFERENCE_BYTES,
            "repo": spec.repo,
            "proxy_socket": proxy_socket,
            "proxy_port": proxy_port,
            "proxy_url": proxy_url,
            "workspace": workspace,
        }
    ).encode()
    program = program or supervisor_program()
    stdin = (program, _SIZE.pack(len(header)), header, *spec.files)
    return Launch(command=supervisor_command(python, program), stdin=stdin, nonce=nonce)


def without_program(launch: Launch) -> Launch:
    """What is left to write to a supervisor that is loaded already."""
    return msgspec.structs.replace(launch, stdin=launch.stdin[1:])


def script_of(command: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Options of the interpreter, and script with arguments, of ``python3 [-I] script …``; None: another command."""
    if command[:1] != ("python3",):
        return None
    options = ("-I",) if command[1:2] == ("-I",) else ()
    script = tuple(command[1 + len(options) :])
    return (options, script) if script and not script[0].startswith("-") else None


class ReplyReader:
    """Takes the supervisor's stdout in pieces of any size until the result is complete."""

    def __init__(self, spec: SandboxSpec, nonce: str) -> None:
        self.started = False
        """The command was started: files were unpacked, the repository committed."""
        self.complete = False
        self.collecting = False
        """The command has ended and everything is dead; the result is on its way."""
        self._spec = spec
        self._nonce = nonce
        self._buffer = bytearray()
        self._result = b""
        max_result = (
            _SIZE.size
            + MAX_FACTS_BYTES
            + spec.limits.log_chars * MAX_BYTES_PER_CHAR
            + sum(file.max_bytes for file in spec.outputs)
            + MAX_DIFFERENCE_BYTES
        )
        self._max_of = {b"S": 0, b"C": 0, b"L": MAX_FACTS_BYTES, b"E": MAX_FACTS_BYTES, b"R": max_result}
        if spec.on_difference:
            self._max_of[b"D"] = MAX_DIFFERENCE_SO_FAR_BYTES

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes; True once the result is complete (what follows it is ignored).

        Raises:
            SandboxFailed: the supervisor says that it failed, or these bytes are not its.
        """
        if not self.complete:
            self._buffer += chunk
            while not self.complete and self._take_frame():
                pass
        return self.complete

    def exit(self, measured: Measured) -> SandboxExit:
        """The result. Call when complete.

        Raises:
            SandboxFailed: it is none: forged or damaged.
        """
        facts, contents = self._taken_apart()
        log, dropped = _last_characters(contents[0], self._spec.limits.log_chars, facts.log_dropped_chars)
        outputs = tuple(
            OutputFile(path=file.path, content=content if problem is None else None, problem=problem)
            for file, (_, problem), content in zip(self._spec.outputs, facts.outputs, contents[1:-1], strict=True)
        )
        return SandboxExit(
            exit=ExitFacts(
                exit_code=facts.exit_code,
                timed_out=facts.timed_out,
                cancelled=facts.cancelled,
                out_of_memory=facts.out_of_memory or (measured.out_of_memory and facts.exit_code != 0),
                wall_s=facts.wall_s,
                cpu_s=facts.cpu_s if measured.cpu_s is None else max(0.0, measured.cpu_s - facts.own_cpu_s),
                peak_memory_bytes=measured.peak_memory_bytes or facts.peak_memory_bytes,
                pids_peak=measured.pids_peak,
                written_bytes=facts.written_bytes,
                log_truncated_chars=dropped,
            ),
            log=log,
            outputs=outputs,
            difference=contents[-1] if facts.difference_size is not None else None,
            difference_problem=facts.difference_problem,
        )

    def _take_frame(self) -> bool:
        if len(self._buffer) < _HEAD.size:
            return False
        kind, size = _HEAD.unpack_from(self._buffer)
        limit = self._max_of.get(kind)
        if limit is None or size > limit:
            raise self._failed(f"its supervisor sent {kind!r} with {size} bytes, which it never does")
        if len(self._buffer) < _HEAD.size + size:
            return False
        payload = bytes(self._buffer[_HEAD.size : _HEAD.size + size])
        del self._buffer[: _HEAD.size + size]
        if kind == b"E":
            raise self._failed(payload.decode("utf-8", "replace"))
        if kind == b"S":
            self.started = True
        if kind == b"C":
            self.collecting = True
        if kind == b"L" and self._spec.on_log:
            if size < _OFFSET.size:
                raise self._failed("its supervisor sent a damaged piece of the log")
            self._spec.on_log(_OFFSET.unpack_from(payload)[0], payload[_OFFSET.size :])
        if kind == b"D" and self._spec.on_difference:
            self._spec.on_difference(payload)
        if kind == b"R":
            self._result = payload
            self.complete = True
        return True

    def _taken_apart(self) -> tuple[_Facts, list[bytes]]:
        """The facts; then log, outputs (b"" for those not read) and difference (b"" when there is none)."""
        view = memoryview(self._result)
        try:
            (size,) = _SIZE.unpack_from(view)
            facts = msgspec.json.decode(view[_SIZE.size : _SIZE.size + size], type=_Facts)
        except (struct.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._failed("its result is damaged") from error
        sizes = [facts.log_size, *(size or 0 for size, _ in facts.outputs), facts.difference_size or 0]
        if (
            not secrets.compare_digest(facts.nonce.encode(), self._nonce.encode())
            or any(size < 0 for size in sizes)
            or _SIZE.size + size + sum(sizes) != len(view)
            or not self._credible(facts)
        ):
            raise self._failed("its result was forged")
        contents, at = [], _SIZE.size + size
        for length in sizes:
            contents.append(bytes(view[at : at + length]))
            at += length
        return facts, contents

    def _credible(self, facts: _Facts) -> bool:
        expected = self._spec.outputs
        return (
            len(facts.outputs) == len(expected)
            and all((size is None) != (problem is None) for size, problem in facts.outputs)
            and all((size or 0) <= file.max_bytes for (size, _), file in zip(facts.outputs, expected, strict=True))
            and facts.log_size <= self._spec.limits.log_chars * MAX_BYTES_PER_CHAR
            and (facts.difference_size or 0) <= MAX_DIFFERENCE_BYTES
            and (facts.exit_code is None or -64 <= facts.exit_code <= 255)
            and all(math.isfinite(value) and value >= 0 for value in (facts.wall_s, facts.cpu_s, facts.own_cpu_s))
            and min(facts.peak_memory_bytes, facts.log_dropped_chars, facts.written_bytes or 0) >= 0
        )

    def _failed(self, reason: str) -> SandboxFailed:
        return SandboxFailed(self._spec.run_id, reason)


def exit_without_result(spec: SandboxSpec, measured: Measured) -> SandboxExit:
    """What is left to say of a sandbox whose supervisor itself was killed because memory was full."""
    return SandboxExit(
        exit=ExitFacts(
            exit_code=-9,
            out_of_memory=measured.out_of_memory,
            cpu_s=measured.cpu_s,
            peak_memory_bytes=measured.peak_memory_bytes,
            pids_peak=measured.pids_peak,
        ),
        log=b"",
        outputs=tuple(OutputFile(path=file.path, problem="missing") for file in spec.outputs),
        difference_problem="the sandbox was killed as a whole: out of memory" if spec.repo else None,
    )


def _last_characters(content: bytes, most: int, dropped: int) -> tuple[bytes, int]:
    """The log as UTF-8 with its prefix when it was cut, and how many characters are missing."""
    if dropped:
        content = _from_first_character(content)
    text = content.decode("utf-8", "replace")
    dropped += max(0, len(text) - most)
    text = text[max(0, len(text) - most) :]
    prefix = f"<truncated {dropped} chars>" if dropped else ""
    return (prefix + text).encode(), dropped


def _from_first_character(content: bytes) -> bytes:
    """Without the rest of a character that was cut in two (it was counted as dropped)."""
    for at in range(min(3, len(content))):
        if content[at] & 0xC0 != 0x80:
            return content[at:]
    return content[3:]
