"""What a sandbox tells of its repository while the command runs. Inherited by one class for each adapter."""

import asyncio
import time

from conformance.sandbox_suite import REPO
from sandboxes import SMALL, gone, python, sandbox_spec, tar_of

from ridges.contracts.limits import MIB

LARGE_SNAPSHOT = 8 * MIB


class SnapshotSuite:
    """The class for an adapter gives the fixture ``sandbox``."""

    async def told(self, sandbox, *command, every_s=0.2, cancelled=None, **changes):
        """(How it ended, the differences that were told meanwhile)."""
        told = []
        how = {"files": (REPO,), "repo": True, "on_difference": told.append, "difference_every_s": every_s} | changes
        spec = sandbox_spec(*command, **how)
        try:
            return await sandbox.run(spec, cancelled or asyncio.Event()), told
        finally:
            await gone(spec)

    async def test_the_difference_so_far_is_told_while_the_command_runs_and_is_that_of_its_end(self, sandbox):
        work = (
            "cd repo; echo three >> a.txt; rm gone.txt; echo new > new.txt; chmod -x sub/run.sh; ln -sf sub link;"
            " printf '\\0\\1\\2' > binary; printf 'a\\r\\nc\\r\\n' > crlf.txt; echo x > x.ignored; echo x > n.pyc;"
            " : > empty; echo y >> 'odd \"name\" \\ é.txt'; sleep 3"
        )
        end, told = await self.told(sandbox, "bash", "-c", work)
        assert b"+three" in end.difference
        assert told[-1].decode() == end.difference.decode()

    async def test_what_it_has_used_so_far_is_told_while_it_runs(self, sandbox):
        used = []
        burn = "import time\nhoard = b'x' * (60 << 20)\nwhile time.process_time() < 0.5: pass\ntime.sleep(2)"
        end, _ = await self.told(sandbox, *python(burn), on_usage=used.append)
        assert 3 < len(used) < 20
        assert [each.wall_s for each in used] == sorted(each.wall_s for each in used)
        last = used[-1]
        assert (last.exit_code, last.timed_out, last.out_of_memory) == (None, False, False)
        assert last.wall_s <= end.exit.wall_s + 2
        assert last.cpu_s >= 0.5
        assert last.peak_memory_bytes > 60 * MIB
        assert 2 <= last.pids_peak <= end.exit.pids_peak

    async def test_reading_the_repository_is_not_the_commands_processor_time(self, sandbox):
        large = tar_of({f"repo/{number}.txt": f"{number} " * 500 for number in range(5_000)})
        waits = ("bash", "-c", "for n in 1 2 3 4; do echo $n >> repo/0.txt; sleep 0.5; done")
        ended, told = await self.told(sandbox, *waits, files=(large,))
        assert told
        assert ended.exit.cpu_s < 0.25, "the base commit and the differences alone take longer"
        burn = "import time\nwhile time.process_time() < 0.5: pass"
        ended, _ = await self.told(sandbox, *python(burn), files=(large,))
        assert 0.45 <= ended.exit.cpu_s < 0.8

    async def test_each_state_is_told_once_and_a_repository_without_changes_not_at_all(self, sandbox):
        end, told = await self.told(sandbox, "bash", "-c", "sleep 1; touch repo/a.txt; mkdir repo/empty; sleep 1")
        assert (end.difference, told) == (b"", [])
        work = "cd repo; echo 3 > a.txt; sleep 2; git checkout -q .; sleep 2"
        end, told = await self.told(sandbox, "bash", "-c", work)
        assert [bool(each) for each in told] == [True, False]

    async def test_the_repository_of_the_agent_is_only_read(self, sandbox):
        """Its index and its locks stay its own: git fails in no program that works all the time."""
        work = (
            "cd repo; echo three >> a.txt; md5sum .git/index > ../before; sleep 1.5; md5sum -c ../before ||"
            " echo changed; for n in $(seq 60); do echo $n > a.txt; git commit -qam $n || exit 1; done; git fsck"
        )
        end, told = await self.told(sandbox, "bash", "-c", work)
        assert (end.exit.exit_code, b"changed" in end.log) == (0, False), end.log
        assert told

    async def test_repositories_within_it_are_left_out_and_not_in_the_way(self, sandbox):
        inner = "mkdir inner; cd inner; git init -q; echo i > file; git add -A; git commit -qm i; cd .."
        work = f"cd repo; git init -q no-commits; {inner}; mkfifo fifo; echo three >> a.txt; sleep 2; ls inner/.git"
        end, told = await self.told(sandbox, "bash", "-c", work)
        assert end.exit.exit_code == 0, end.log
        assert b"+three" in told[-1]
        assert b"inner" not in told[-1]
        assert b"b/inner/file" in end.difference

    async def test_what_is_too_large_is_not_told_and_takes_nothing_from_the_result(self, sandbox):
        work = (
            "cd repo; echo three >> a.txt; sleep 1.5; echo four >> a.txt; head -c 12000000 /dev/urandom > noise;"
            " sleep 4; head -c 40000000 /dev/zero > large; sleep 2; rm noise large; echo five >> a.txt; sleep 6"
        )
        end, told = await self.told(sandbox, "bash", "-c", work)
        assert b"+five" in end.difference
        assert all(len(each) <= LARGE_SNAPSHOT for each in told)
        assert b"+four" not in b"".join(told[:1])

    async def test_programs_that_stop_kill_and_impersonate_git_harm_only_their_own_snapshot(self, sandbox):
        meddle = """
import os, signal, time
open("repo/a.txt", "a").write("three\\n")
end, me, written = time.monotonic() + 6, os.getpid(), 0
while time.monotonic() < end:
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, me)]:
        for fd in range(12):
            try:
                target = os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
                written += os.write(target, b"R" + b"\\0" * 7 + b"\\x40" + b"forged" * 11)
            except OSError:
                pass
        try:
            open(f"/proc/{pid}/mem", "r+b").close()
        except OSError:
            pass
        try:
            os.kill(pid, (signal.SIGSTOP, signal.SIGKILL)[pid % 2])
        except OSError:
            pass
print("over", flush=True)
"""
        began = time.monotonic()
        end, _ = await self.told(sandbox, *python(meddle), timeout_s=40)
        assert (end.exit.exit_code, end.log) == (0, b"over\n")
        assert b"+three" in end.difference
        assert b"forged" not in end.difference
        assert time.monotonic() - began < 15

    async def test_what_lies_in_the_way_of_a_snapshot_is_not_written_through(self, sandbox):
        """Links in the place of its files lead it nowhere: not into what the supervisor has open either."""
        race = """
import os, time
tmp = os.environ.get("TMPDIR", "/tmp")
open("repo/a.txt", "a").write("three\\n")
end = time.monotonic() + 5
while time.monotonic() < end:
    for name in os.listdir(tmp):
        if name.startswith(".ridges-"):
            for fd in range(3, 14):
                for file in ("index", "HEAD", "config", "refs/heads/main"):
                    try:
                        os.symlink(f"/proc/self/fd/{fd}", f"{tmp}/{name}/{file}")
                    except OSError:
                        pass
            try:
                os.rename(f"{tmp}/{name}/objects/pack", f"{tmp}/{name}/x")
                os.symlink("/proc/self/fd", f"{tmp}/{name}/objects/pack")
            except OSError:
                pass
"""
        end, _ = await self.told(sandbox, *python(race))
        assert end.exit.exit_code == 0, end.log
        assert b"+three" in end.difference

    async def test_no_room_for_a_snapshot_costs_the_snapshot_alone(self, sandbox):
        fill = "echo three >> repo/a.txt; for at in $TMPDIR /tmp; do cat /dev/zero > $at/fill; done; sleep 3"
        limits = type(SMALL)(memory_bytes=512 * MIB, disk_bytes=16 * MIB)
        end, told = await self.told(sandbox, "bash", "-c", fill, limits=limits)
        assert b"+three" in end.difference
        assert told in ([], [end.difference])

    async def test_a_command_that_ends_during_a_snapshot_waits_for_nothing(self, sandbox):
        work = "cd repo; for n in $(seq 1000); do echo $n > f$n; done; sleep 0.3"
        end, _ = await self.told(sandbox, "bash", "-c", work, every_s=0.05)
        assert end.exit.exit_code == 0
        assert end.difference.count(b"diff --git") == 1000
