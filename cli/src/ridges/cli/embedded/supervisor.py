"""The process that starts the system, restarts what crashes, and stops everything in order.

``python -m ridges.cli.embedded.supervisor [SANDBOX]``
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import nats

from ridges.chassis.jetstream import permissions
from ridges.chassis.migrate import declare_streams
from ridges.chassis.ports import LogMismatch
from ridges.cli.config import project_root, read_config
from ridges.cli.embedded.die_with_parent import die_with_parent
from ridges.cli.embedded.log_files import RESTORE, LogFiles
from ridges.cli.embedded.plan import ProcessPlan, SystemPlan, plan_system
from ridges.cli.embedded.state import StateDir, SystemState
from ridges.cli.errors import CliError, UsageError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
LONGEST_BACKOFF_S = 10.0
STEADY_AFTER_S = 30.0
ABANDONED_AFTER_S = 5.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.03, 2.0
ROOM_BYTES = 8 * 1024**2
"""Free again on the log's disk: nats-server is worth a new start."""
STUCK = b"no space left on device"
"""In nats-server's log. Source: nats-server 2.15, a stream that could not write refuses all appends until a restart."""
EXIT_BAD_SETTINGS = 2
"""Of every service."""


class SupervisedProcess:
    """One process, kept alive until it is told to stop."""

    def __init__(self, plan: ProcessPlan, logs: Path, before_start: Callable[[], None] = lambda: None) -> None:
        """``before_start`` is called before each start, also after a crash."""
        self.plan, self._before_start = plan, before_start
        self._log = logs / f"{plan.name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None
        self._read_to = self._log.stat().st_size if self._log.exists() else 0
        self.restarts = 0
        self._ended_with: int | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"keep {self.plan.name}")

    async def wait_ready(self, session: aiohttp.ClientSession, deadline: float) -> None:
        """Returns when the process says it is ready.

        Raises:
            UsageError: its settings are wrong.
            CliError: not before the deadline, or it ends again and again; says what it last said.

        """
        last, began = "no answer", time.monotonic()
        while time.monotonic() < deadline:
            if self.restarts > 1 and self._ended_with == EXIT_BAD_SETTINGS:
                raise UsageError(self.last_words())
            if self.restarts > 2:
                raise CliError(f"{self.plan.name} does not stay up: {self.last_words()}")
            try:
                async with session.get(self.plan.ready_url) as response:
                    if response.status == 200:
                        return
                    last = (await response.text())[:500]
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                last = str(error) or type(error).__name__
            await asyncio.sleep(pause_s(time.monotonic() - began))
        raise CliError(f"{self.plan.name} is not ready after {START_TIMEOUT_S:.0f} s: {last}; its log: {self._log}")

    def new_words(self) -> bytes:
        """What it wrote to its log since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._read_to)
            words = log.read()
        self._read_to += len(words)
        return words

    def restart(self) -> None:
        """End it; the keeper starts it again."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), timeout_s)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def last_words(self) -> str:
        """The last line of the process's log."""
        try:
            lines = [
                line for line in self._log.read_bytes()[-4000:].decode("utf-8", "replace").splitlines() if line.strip()
            ]
        except OSError:
            lines = []
        return lines[-1][:600] if lines else f"no output; its log: {self._log}"

    async def _spawn(self) -> None:
        self._before_start()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.plan.command,
                env=self.plan.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def _keep_alive(self) -> None:
        backoff_s = 0.2
        while not self._stopping:
            assert self._process is not None
            born = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            self.restarts += 1
            self._ended_with = code
            backoff_s = 0.2 if time.monotonic() - born > STEADY_AFTER_S else min(backoff_s * 2, LONGEST_BACKOFF_S)
            _say(f"{self.plan.name} ended with {code}; started again in {backoff_s:.1f} s: {self.last_words()}")
            await asyncio.sleep(backoff_s)
            await self._spawn()


def pause_s(waited_s: float) -> float:
    """Until the next question whether a process is ready: nats-server warns in its log of each that it says no to."""
    return min(max(SHORTEST_PAUSE_S, waited_s / 10), LONGEST_PAUSE_S)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not end the system
        print(text, flush=True)


class Supervisor:
    """Starts the plan and keeps ``state.json`` true."""

    def __init__(self, state: StateDir, plan: SystemPlan) -> None:
        self._state, self._plan = state, plan
        self._log_files = LogFiles(state)
        self._nats = SupervisedProcess(plan.nats, state.logs, self._log_files.copy)
        self._services = [SupervisedProcess(service, state.logs) for service in plan.services]
        self._started_at = datetime.now(UTC)
        self._log_is_stuck = False

    async def run(self, stop: asyncio.Event) -> None:
        """Runs the system until ``stop``, or until its last user was killed.

        Raises:
            CliError: it could not be started; everything that was started is stopped.

        """
        failure: CliError | None = None
        try:
            await self._start()
            self._write("ready", "")
            used_at = time.monotonic()
            while not stop.is_set() and time.monotonic() - used_at < ABANDONED_AFTER_S:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
                self._log_files.refuse_cut()
                self._mend_log()
                self._write("ready", "")
                used_at = used_at if self._state.abandoned else time.monotonic()
        except CliError as error:
            failure = self._cause(error)
        self._write("stopping" if failure is None else "failed", str(failure or ""))
        await asyncio.gather(*(service.stop() for service in self._services if service.plan.name == "sandbox-manager"))
        await asyncio.gather(*(service.stop() for service in self._services))
        await self._nats.stop()
        self._log_files.drop_copy()
        if failure:
            raise failure

    def _cause(self, failure: CliError) -> CliError:
        """Where the log was cut off meanwhile, services failed because of that."""
        try:
            self._log_files.refuse_cut()
        except CliError as cause:
            return cause
        return failure

    async def _start(self) -> None:
        self._write("starting", "nats")
        deadline = time.monotonic() + START_TIMEOUT_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
            await self._nats.start()
            # The services need a second of imports: they start while nats-server does and wait for it by themselves.
            await asyncio.gather(*(service.start() for service in self._services))
            await self._nats_ready(session, deadline)
            connection = await nats.connect(
                self._plan.nats_url,
                name="ridges-migrate",
                user=permissions.ADMIN,
                password=self._plan.nats_admin_password,
            )
            try:
                await declare_streams(connection)
            except LogMismatch as error:
                raise CliError(str(error)) from error
            finally:
                await connection.close()
            self._log_files.refuse_cut()
            self._write("starting", "services")
            await asyncio.gather(*(service.wait_ready(session, deadline) for service in self._services))

    async def _nats_ready(self, session: aiohttp.ClientSession, deadline: float) -> None:
        try:
            await self._nats.wait_ready(session, deadline)
        except UsageError:
            raise
        except CliError as error:
            raise CliError(
                f"{error}. Its log in {self._state.nats} may be damaged; if it says so, to go on: {RESTORE}"
            ) from error

    def _mend_log(self) -> None:
        """The log goes on by itself once its full disk has room again."""
        if STUCK in self._nats.new_words():
            self._log_is_stuck = True
        if self._log_is_stuck and shutil.disk_usage(self._state.nats).free > ROOM_BYTES:
            _say(f"the disk of {self._state.nats} was full and has room again: nats-server is restarted")
            self._log_is_stuck = False
            self._nats.restart()

    def _write(self, phase: str, detail: str) -> None:
        processes = [self._nats, *self._services]
        urls = self._plan.urls
        state = SystemState(
            supervisor_pid=os.getpid(),
            phase=phase,  # type: ignore[arg-type]
            detail=detail,
            nats_url=self._plan.nats_url,
            ledger_url=urls["ledger"],
            gateway_url=urls["gateway"],
            sandbox_manager_url=urls["sandbox-manager"],
            evaluator_url=urls["evaluator"],
            pids={process.plan.name: process.pid for process in processes if process.pid},
            started_at=self._started_at,
        )
        try:
            self._state.write(state)
        except OSError as error:
            if phase == "starting":
                raise CliError(f"cannot write {self._state.path}: {error.strerror}; make room") from error


async def _main(sandbox: str | None) -> None:
    state = StateDir(project_root())
    state.create()
    with state.hold():
        state.remove_state()
        files = LogFiles(state)
        files.refuse_damaged()
        files.drop_copy()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await Supervisor(state, plan_system(read_config(state.root), state, sandbox)).run(stop)
        state.remove_state()


def main() -> int:
    """Exit code 0 after a clean stop; else one line on stderr says why."""
    try:
        asyncio.run(_main(sys.argv[1] if len(sys.argv) > 1 else None))
    except CliError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
