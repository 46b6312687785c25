"""What every sandbox must do. Inherited by one class for each adapter, which gives the fixture ``sandbox``."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from sandboxes import SMALL, gone, processes_of, python, sandbox_spec, tar_of

from ridges.contracts.limits import MIB
from ridges.sandbox_manager.errors import SandboxFailed

REPO = tar_of(
    {
        "repo/a.txt": "one\ntwo\n",
        "repo/gone.txt": "soon gone\n",
        "repo/crlf.txt": b"a\r\nb\r\n",
        "repo/.gitattributes": "* text=auto\n*.txt filter=evil\n",
        "repo/.gitignore": "*.ignored\n",
        "repo/tracked.ignored": "in the base although ignored\n",
        "repo/sub/run.sh": "#!/bin/sh\necho ran\n",
        'repo/odd "name" \\ é.txt': "x\n",
    },
    executable=("repo/sub/run.sh",),
    symlinks={"repo/link": "a.txt"},
)


class SandboxSuite:
    """The class for an adapter also says how a program makes that adapter: ``construct``, with ``{tmp_path}`` in it."""

    construct: str

    async def ended(self, sandbox, *command, cancelled=None, **changes):
        spec = sandbox_spec(*command, **changes)
        try:
            return await sandbox.run(spec, cancelled or asyncio.Event())
        finally:
            await gone(spec)

    # -- the command ---------------------------------------------------------------------------------------------------

    async def test_self_test_passes(self, sandbox):
        await sandbox.check()

    async def test_exit_code_and_both_streams_are_reported(self, sandbox):
        end = await self.ended(sandbox, "bash", "-c", "echo out; echo err >&2; exit 7")
        assert end.exit.exit_code == 7
        assert end.log == b"out\nerr\n"
        assert not any((end.exit.timed_out, end.exit.cancelled, end.exit.out_of_memory))
        assert end.difference is None

    async def test_a_signal_is_a_negative_exit_code(self, sandbox):
        end = await self.ended(sandbox, "bash", "-c", "kill -SEGV $$")
        assert end.exit.exit_code == -signal.SIGSEGV

    async def test_a_missing_program_is_told_in_the_log(self, sandbox):
        end = await self.ended(sandbox, "no-such-program")
        assert end.exit.exit_code == 127
        assert b"no-such-program" in end.log

    async def test_wall_and_cpu_time_are_measured(self, sandbox):
        burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\ntime.sleep(0.5)"
        end = await self.ended(sandbox, *python(burn))
        assert 0.8 <= end.exit.wall_s < 10
        assert 0.3 <= end.exit.cpu_s < 3
        assert end.exit.peak_memory_bytes > MIB

    async def test_written_bytes_are_counted_with_those_of_dead_children(self, sandbox):
        write = "for n in 1 2 3; do head -c 1000000 /dev/zero > x$n; done; head -c 5000 /dev/zero"
        end = await self.ended(sandbox, "bash", "-c", write)
        assert 3_005_000 <= end.exit.written_bytes < 3_100_000

    async def test_the_environment_holds_only_what_was_given(self, sandbox, monkeypatch):
        monkeypatch.setenv("SECRET_OF_THE_MANAGER", "1")
        end = await self.ended(sandbox, "env", env={"GIVEN": "ü x"})
        names = {line.split("=")[0] for line in end.log.decode().splitlines()}
        assert names >= {"PATH", "HOME", "LANG", "TMPDIR", "GIVEN"}
        assert "SECRET_OF_THE_MANAGER" not in names
        assert "GIVEN=ü x" in end.log.decode()

    async def test_stdin_is_empty_and_no_descriptor_leaks(self, sandbox):
        end = await self.ended(
            sandbox, *python("import os, sys; print(repr(sys.stdin.read()), len(os.listdir('/proc/self/fd')))")
        )
        assert end.log == b"'' 4\n"

    async def test_home_and_temporary_directories_are_writable(self, sandbox):
        end = await self.ended(
            sandbox, "bash", "-c", "git config --global user.name x && mktemp && echo > /sandbox/file && pwd"
        )
        assert end.exit.exit_code == 0, end.log

    async def test_git_bash_python_and_subprocesses_and_threads_work(self, sandbox):
        end = await self.ended(
            sandbox,
            *python(
                "import subprocess, threading, multiprocessing\n"
                "if __name__ == '__main__':\n"
                " t = threading.Thread(target=print, args=('thread',), kwargs={'flush': True}); t.start(); t.join()\n"
                " subprocess.run(['git', '--version'], check=True)\n"
                " print(multiprocessing.get_context('fork').Pool(2).map(abs, [-1]))"
            ),
        )
        assert end.exit.exit_code == 0, end.log
        assert b"thread" in end.log
        assert b"[1]" in end.log

    # -- files in ------------------------------------------------------------------------------------------------------

    async def test_tars_are_unpacked_in_order(self, sandbox):
        files = (
            tar_of(
                {"run.sh": "#!/bin/sh\ncat x link\n", "x": "old\n"},
                executable=("run.sh",),
                symlinks={"link": "x"},
            ),
            tar_of({"x": "new\n", "deep/er/y": "y"}),
        )
        end = await self.ended(sandbox, "/sandbox/run.sh", files=files, outputs={"/sandbox/deep/er/y": 10})
        assert end.log == b"new\nnew\n"
        assert end.output("/sandbox/deep/er/y").content == b"y"

    async def test_large_files_go_in_and_come_out(self, sandbox):
        content = os.urandom(10 * MIB)
        end = await self.ended(
            sandbox, "cp", "in", "out", files=(tar_of({"in": content}),), outputs={"/sandbox/out": 10 * MIB}
        )
        assert end.output("/sandbox/out").content == content

    async def test_a_tar_that_leads_out_of_the_workspace_is_refused(self, sandbox):
        with pytest.raises(SandboxFailed, match=r"out of the workspace"):
            await self.ended(sandbox, "true", files=(tar_of({"../x": "x"}),))

    async def test_damaged_tar_is_told(self, sandbox):
        with pytest.raises(SandboxFailed, match=r"[Tt]ar|header|empty"):
            await self.ended(sandbox, "true", files=(b"no tar" * 1000,))

    # -- the log -------------------------------------------------------------------------------------------------------

    async def test_the_end_of_a_long_log_is_kept_with_an_exact_count(self, sandbox):
        text = "import sys; sys.stdout.write('é' * 250_000 + 'end')"
        end = await self.ended(sandbox, *python(text), env={"PYTHONIOENCODING": "utf-8"})
        log = end.log.decode()
        prefix = "<truncated 150003 chars>"
        assert end.exit.log_truncated_chars == 150_003
        assert log.startswith(prefix)
        assert log[len(prefix) :] == "é" * 99_997 + "end"

    async def test_bytes_that_are_no_text_are_replaced(self, sandbox):
        end = await self.ended(sandbox, *python(r"import os; os.write(1, b'a\xff\xfeb\x00c')"))
        assert end.log.decode() == "a��b\0c"

    async def test_a_flood_of_output_is_cut_to_its_end(self, sandbox):
        end = await self.ended(sandbox, "bash", "-c", "yes | head -c 100000000; echo the-end")
        assert end.log.endswith(b"the-end\n")
        assert len(end.log.decode()) <= SMALL.log_chars + len("<truncated 100000000 chars>")
        assert end.exit.log_truncated_chars == 100_000_008 - SMALL.log_chars

    async def test_output_byte_by_byte_costs_no_more(self, sandbox):
        end = await self.ended(sandbox, *python("import os\nfor _ in range(50000): os.write(1, b'x')"))
        assert end.log == b"x" * 50_000

    # -- ends ----------------------------------------------------------------------------------------------------------

    async def test_a_timeout_keeps_log_outputs_and_difference(self, sandbox):
        began = time.monotonic()
        end = await self.ended(
            sandbox,
            *(
                "bash",
                "-c",
                "trap '' TERM INT; echo begun; echo three >> repo/a.txt; echo o > out; sleep 60 & sleep 60",
            ),
            files=(REPO,),
            repo=True,
            timeout_s=1,
            outputs={"/sandbox/out": 10},
        )
        assert time.monotonic() - began < 6
        assert end.exit.timed_out
        assert end.exit.exit_code is None
        assert end.log == b"begun\n"
        assert end.output("/sandbox/out").content == b"o\n"
        assert b"+three" in end.difference

    async def test_cancelling_ends_it_at_once_and_keeps_what_is_there(self, sandbox):
        cancelled = asyncio.Event()
        asyncio.get_running_loop().call_later(1.5, cancelled.set)
        began = time.monotonic()
        end = await self.ended(
            sandbox,
            *("bash", "-c", "echo begun; echo three >> repo/a.txt; sleep 60"),
            cancelled=cancelled,
            files=(REPO,),
            repo=True,
        )
        assert time.monotonic() - began < 5
        assert end.exit.cancelled
        assert end.log == b"begun\n"
        assert b"+three" in end.difference

    async def test_cancelled_before_it_began(self, sandbox):
        cancelled = asyncio.Event()
        cancelled.set()
        end = await self.ended(sandbox, "sleep", "60", cancelled=cancelled)
        assert end.exit.cancelled

    async def test_a_cancelled_coroutine_leaves_nothing(self, sandbox):
        for after_s in (0.005, 0.05, 1.0):
            spec = sandbox_spec("bash", "-c", "setsid sleep 60 & sleep 60", files=(REPO,), repo=True)
            running = asyncio.ensure_future(sandbox.run(spec, asyncio.Event()))
            await asyncio.sleep(after_s)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await gone(spec)

    async def test_what_the_command_left_running_is_ended_with_it(self, sandbox):
        began = time.monotonic()
        end = await self.ended(sandbox, "bash", "-c", "setsid sleep 60 & nohup sleep 60 & echo over")
        assert time.monotonic() - began < 5
        assert end.exit.exit_code == 0
        assert end.log == b"over\n"

    async def test_memory_is_limited_and_said_so(self, sandbox):
        eat = "import time\nblocks = []\nwhile True:\n blocks.append(b'x' * 20_000_000); time.sleep(0.01)"
        limits = type(SMALL)(memory_bytes=256 * MIB, disk_bytes=16 * MIB)
        end = await self.ended(sandbox, *python(eat), limits=limits, files=(REPO,), repo=True)
        assert end.exit.out_of_memory or b"MemoryError" in end.log
        assert end.exit.exit_code != 0
        assert end.exit.peak_memory_bytes < 400 * MIB
        assert end.difference == b""

    async def test_many_at_once(self, sandbox):
        ends = await asyncio.gather(*(self.ended(sandbox, "bash", "-c", f"sleep 0.2; echo {n}") for n in range(6)))
        assert [end.log for end in ends] == [b"%d\n" % n for n in range(6)]

    # -- files out -----------------------------------------------------------------------------------------------------

    async def test_outputs_are_regular_files_of_the_asked_size_or_a_reason(self, sandbox):
        make = (
            "import os\n"
            "for name, size in (('good', 5), ('full', 10), ('big', 11)): open(name, 'w').write('x' * size)\n"
            "os.symlink('good', 'link'); os.mkfifo('fifo'); os.mkdir('dir'); open('dir/f', 'w').write('f')\n"
            "os.symlink('dir', 'dirlink'); open('sparse', 'w').truncate(1 << 24); open('empty', 'w')\n"
        )
        names = ("good", "full", "big", "link", "fifo", "dir", "sparse", "empty", "absent", "dirlink/f", "dir/f")
        end = await self.ended(sandbox, *python(make), outputs={f"/sandbox/{name}": 10 for name in names})
        assert end.exit.exit_code == 0, end.log
        got = {file.path.removeprefix("/sandbox/"): file.content or file.problem for file in end.outputs}
        assert got == {
            "good": b"xxxxx",
            "full": b"xxxxxxxxxx",
            "big": "too_large",
            "link": "not_a_regular_file",
            "fifo": "not_a_regular_file",
            "dir": "not_a_regular_file",
            "sparse": "too_large",
            "empty": None,
            "absent": "missing",
            "dirlink/f": "not_a_regular_file",
            "dir/f": b"f",
        }
        assert end.output("/sandbox/empty").content == b""

    # -- the repository ------------------------------------------------------------------------------------------------

    async def test_the_repository_is_one_clean_commit_without_a_past(self, sandbox):
        look = (
            "cd repo; git log --all --format='%H %an %ad %s'; git status --porcelain; git remote; git tag;"
            " git stash list; git fsck --full --strict --unreachable; git ls-files -s"
        )
        first, second = [await self.ended(sandbox, "bash", "-c", look, files=(REPO,), repo=True) for _ in range(2)]
        assert first.log == second.log
        lines = first.log.decode().splitlines()
        assert lines[0].endswith("Ridges Sat Jan 1 00:00:00 2000 +0000 base")
        assert len(lines) == 1 + 9, lines
        assert any(line.startswith("120000") and line.endswith("link") for line in lines)
        assert any(line.startswith("100755") and line.endswith("run.sh") for line in lines)
        assert first.difference == b""

    async def test_the_difference_holds_edits_commits_and_new_files(self, sandbox):
        work = (
            "cd repo; echo three >> a.txt; git rm -q gone.txt; git commit -qm mine; echo new > new.txt;"
            " chmod -x sub/run.sh; printf '\\0\\1\\2' > binary; printf 'a\\r\\nc\\r\\n' > crlf.txt; echo x > x.ignored;"
            " mkdir -p p/__pycache__; echo x > p/__pycache__/m.cpython.pyc; echo x > p/n.pyc;"
            " echo two >> tracked.ignored"
        )
        end = await self.ended(sandbox, "bash", "-c", work, files=(REPO,), repo=True)
        text = end.difference.decode()
        changed = [line.split(" b/")[1] for line in text.splitlines() if line.startswith("diff --git")]
        assert changed == ["a.txt", "binary", "crlf.txt", "gone.txt", "new.txt", "sub/run.sh", "tracked.ignored"]
        assert "+three" in text
        assert "GIT binary patch" in text
        assert "-b\r\n+c\r\n" in text
        assert "old mode 100755" in text

    async def test_an_edit_of_the_same_length_in_the_first_second_is_seen(self, sandbox):
        work = "printf 'a\\r\\nc\\r\\n' > repo/crlf.txt; sleep 1.2"
        end = await self.ended(sandbox, "bash", "-c", work, files=(REPO,), repo=True)
        assert b"-b\r\n+c\r\n" in end.difference

    async def test_a_replaced_git_directory_does_not_matter(self, sandbox):
        work = "cd repo; rm -rf .git; git init -q; git add -A; git commit -qm other; echo three >> a.txt; rm -rf .git"
        end = await self.ended(sandbox, "bash", "-c", work, files=(REPO,), repo=True)
        assert b"+three" in end.difference

    async def test_filters_and_hooks_of_the_agent_are_not_executed(self, sandbox):
        work = """
            cd repo; mkdir -p .git/hooks
            for key in filter.evil.clean core.fsmonitor diff.external; do git config $key 'sleep 600'; done
            git config --global filter.evil.clean 'sleep 600'; echo '* filter=evil' > .git/info/attributes
            for hook in pre-commit post-index-change; do printf '#!/bin/sh\\nsleep 600' > .git/hooks/$hook; done
            chmod +x .git/hooks/*; echo three >> a.txt
        """
        began = time.monotonic()
        end = await self.ended(sandbox, "bash", "-c", work, files=(REPO,), repo=True)
        assert time.monotonic() - began < 6
        assert b"+three" in end.difference

    async def test_repositories_in_the_repository_show_their_files(self, sandbox):
        inner = "mkdir inner; cd inner; git init -q; echo i > file; git add -A; git commit -qm i"
        work = f"cd repo; git init -q without-commits; {inner}"
        end = await self.ended(sandbox, "bash", "-c", work, files=(REPO,), repo=True)
        assert b"b/inner/file" in end.difference
        assert b"Subproject" not in end.difference

    async def test_a_repository_that_is_gone_is_told(self, sandbox):
        end = await self.ended(sandbox, "bash", "-c", "rm -rf repo; ln -s / repo", files=(REPO,), repo=True)
        assert end.difference is None
        assert end.difference_problem

    async def test_a_difference_that_is_too_large_is_told(self, sandbox):
        big = "import os; open('repo/big', 'wb').write(os.urandom(25_000_000))"
        end = await self.ended(sandbox, *python(big), files=(REPO,), repo=True)
        assert end.difference is None
        assert "larger" in end.difference_problem

    async def test_the_workspace_may_be_full(self, sandbox):
        fill = "echo three >> repo/a.txt; cat /dev/zero > /sandbox/fill; cat /dev/zero > $TMPDIR/fill; true"
        limits = type(SMALL)(memory_bytes=256 * MIB, disk_bytes=16 * MIB)
        end = await self.ended(sandbox, "bash", "-c", fill, files=(REPO,), repo=True, limits=limits)
        assert b"+three" in end.difference

    async def test_what_it_left_is_told_once_when_nothing_of_the_command_runs_any_more(self, sandbox):
        told = []

        def on_exit(left):
            told.append((left, processes_of(spec)))

        spec = sandbox_spec(
            "bash", "-c", "echo whole; setsid sleep 50 & echo > file", on_exit=on_exit, outputs={"/sandbox/file": 9}
        )
        end = await sandbox.run(spec, asyncio.Event())
        assert told == [(end, [])]
        assert (end.log, end.output("/sandbox/file").content) == (b"whole\n", b"\n")
        await gone(spec)

    # -- leftovers -----------------------------------------------------------------------------------------------------

    async def test_a_sweep_leaves_the_living_alone(self, sandbox):
        spec = sandbox_spec("bash", "-c", "sleep 1; echo whole")
        running = asyncio.ensure_future(sandbox.run(spec, asyncio.Event()))
        await asyncio.sleep(0.5)
        await sandbox.sweep({spec.sandbox_id})
        assert (await running).log == b"whole\n"
        await gone(spec)

    async def test_a_sweep_leaves_alone_what_the_adapter_runs_itself(self, sandbox):
        spec = sandbox_spec("bash", "-c", "sleep 1; echo whole")
        running = asyncio.ensure_future(sandbox.run(spec, asyncio.Event()))
        while not running.done():
            assert await sandbox.sweep(set()) == 0, "a self-test is in nobody's list"
            await asyncio.sleep(0.05)
        assert (await running).log == b"whole\n"
        await gone(spec)

    async def test_a_killed_manager_leaves_nothing_after_the_next_sweep(self, sandbox, tmp_path):
        spec = sandbox_spec("bash", "-c", "trap '' TERM HUP; setsid sleep 50 & sleep 50")
        program = [MANAGER, self.construct.format(tmp_path=tmp_path), msgspec.json.encode(spec)]
        manager = subprocess.Popen([sys.executable, "-c", *program])  # noqa: ASYNC220  # to be killed
        try:
            while not any("sleep 50" in line for line in processes_of(spec)):
                assert manager.poll() is None
                await asyncio.sleep(0.05)
        finally:
            manager.kill()
            manager.wait()
        await asyncio.sleep(0.5)
        await sandbox.sweep(set())
        await gone(spec)


MANAGER = """
import asyncio, msgspec, sys
from ridges.sandbox_manager.ports import SandboxSpec
exec(sys.argv[1])
asyncio.run(sandbox.run(msgspec.json.decode(sys.argv[2], type=SandboxSpec), asyncio.Event()))
"""
