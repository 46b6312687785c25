"""Programs that do their worst, for every adapter that isolates: each claim must hold, and nothing may be left.

A program prints ``BROKE OUT`` when it got what it must not get. The ``process`` adapter is not tried: it would be the
host's end.
"""

import asyncio
import time
from pathlib import Path

import pytest
from conformance.sandbox_suite import REPO
from sandboxes import SMALL, gone, sandbox_spec, tar_of

from ridges.sandbox_manager.ports import PROXY_URL

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT_S = 6
PATIENCE_S = 25


class HostileSuite:
    async def survived(self, sandbox, program: str, **changes):
        """Run a program of the folder; the sandbox must end in time and leave nothing."""
        text = (PROGRAMS / f"{program}.py").read_text()
        changes = {"timeout_s": TIMEOUT_S, "repo": True} | changes
        spec = sandbox_spec("python3", "/sandbox/hostile.py", files=(tar_of({"hostile.py": text}), REPO), **changes)
        began = time.monotonic()
        try:
            end = await sandbox.run(spec, asyncio.Event())
        finally:
            await gone(spec)
        assert time.monotonic() - began < PATIENCE_S
        assert b"BROKE OUT" not in end.log, end.log.decode()
        assert len(end.log) < 5 * SMALL.log_chars
        return end

    async def still_works(self, sandbox):
        """The next sandbox is not harmed."""
        spec = sandbox_spec("echo", "fine")
        assert (await sandbox.run(spec, asyncio.Event())).log == b"fine\n"

    @pytest.mark.parametrize(
        "program", ["network", "host_files", "trace_supervisor", "kernel_surface", "hidden_memory"]
    )
    async def test_it_cannot_get_what_it_must_not(self, sandbox, program):
        end = await self.survived(sandbox, program, timeout_s=20)
        assert end.exit.exit_code in (0, -9), end.log.decode()

    async def test_fork_bomb(self, sandbox):
        beside = asyncio.ensure_future(self.still_works(sandbox))
        end = await self.survived(sandbox, "fork_bomb", timeout_s=2)
        assert end.exit.timed_out or end.exit.exit_code is not None
        assert end.difference == b""
        await beside

    async def test_memory_bomb(self, sandbox):
        end = await self.survived(sandbox, "memory_bomb")
        assert end.exit.out_of_memory or b"MemoryError" in end.log
        assert end.exit.exit_code != 0
        await self.still_works(sandbox)

    async def test_disk_bomb(self, sandbox):
        end = await self.survived(sandbox, "disk_bomb", timeout_s=20)
        assert b"wrote" in end.log
        assert end.difference is not None, end.difference_problem

    async def test_log_bomb(self, sandbox):
        end = await self.survived(sandbox, "log_bomb", timeout_s=20)
        assert end.exit.log_truncated_chars > 50_000_000
        assert end.log.startswith(b"<truncated ")

    async def test_one_huge_line(self, sandbox):
        end = await self.survived(sandbox, "one_huge_line", timeout_s=20)
        assert end.log.endswith(b"xlast word")
        assert end.exit.log_truncated_chars == 60_000_009 - SMALL.log_chars

    async def test_daemons_are_ended_with_the_command(self, sandbox):
        end = await self.survived(sandbox, "daemon")
        assert b"main is done" in end.log
        assert end.exit.wall_s < 3
        assert end.exit.exit_code == 0

    async def test_deaf_to_signals(self, sandbox):
        end = await self.survived(sandbox, "deaf", timeout_s=1)
        assert end.exit.timed_out
        assert end.log == b"deaf\n"

    async def test_killing_everything_kills_only_itself(self, sandbox):
        end = await self.survived(sandbox, "kill_everything")
        assert end.exit.exit_code == -9
        assert end.log == b"begun\n"
        assert end.difference == b""

    async def test_stopping_everything_stops_only_itself(self, sandbox):
        end = await self.survived(sandbox, "stop_everything", timeout_s=2)
        assert end.exit.timed_out
        assert end.log == b"begun\n"
        assert end.difference == b""

    async def test_outputs_that_are_no_files(self, sandbox):
        names = ["symlink", "proclink", "rootlink/etc/passwd", "fifo", "directory", "sparse", "large", "zero", "socket"]
        end = await self.survived(
            sandbox, "bad_outputs", outputs={f"/sandbox/{name}": 100_000 for name in (*names, "loop", "loop/x")}
        )
        assert all(file.content is None for file in end.outputs)
        assert {file.path: file.problem for file in end.outputs if file.problem == "too_large"}.keys() == {
            "/sandbox/sparse",
            "/sandbox/large",
        }

    async def test_os_exit(self, sandbox):
        end = await self.survived(sandbox, "os_exit")
        assert end.exit.exit_code == 3
        assert end.log == b"half a li"

    async def test_bytes_that_are_no_text(self, sandbox):
        end = await self.survived(sandbox, "not_text")
        assert len(end.log.decode()) > 256

    async def test_a_forged_result_is_only_a_log(self, sandbox):
        end = await self.survived(sandbox, "forge_result")
        assert end.exit.exit_code == 9
        assert b"forged" in end.log

    async def test_a_maze_of_a_repository(self, sandbox):
        end = await self.survived(sandbox, "maze", timeout_s=20)
        assert end.log == b"built\n"
        assert end.difference is not None, end.difference_problem
        assert b"b/wide-2999" in end.difference

    async def test_crowding_the_proxy(self, sandbox, proxy_dir):
        end = await self.survived(
            sandbox, "crowd_the_proxy", env={"PROXY": PROXY_URL}, proxy_dir=proxy_dir, timeout_s=20
        )
        assert end.log == b"hello\n"
