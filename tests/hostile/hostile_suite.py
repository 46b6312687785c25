"""Programs that do their worst, for every adapter that isolates: each claim must hold, and nothing may be left.

All programs of ``cases`` run once for each adapter, some of them at the same time; each is then judged by a test of its
own. The ``process`` adapter is not tried: it would be the host's end.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conformance.sandbox_suite import REPO
from hostile.cases import CASES, IN_COMPANY, PROGRAMS, Case, Ended
from hostile.host import Host
from hostile.world import World, world
from sandboxes import SMALL, gone, sandbox_spec, tar_of

from ridges.sandbox_manager.errors import SandboxFailed
from ridges.sandbox_manager.ports import PROXY_SOCKET, Sandbox

Technology = Callable[[], contextlib.AbstractAsyncContextManager[Sandbox]]


class Run:
    """What became of all programs."""

    def __init__(self) -> None:
        self.ended: dict[str, Ended | BaseException] = {}
        self.visitors: list[object] = []
        self.honest = b""
        self.left: list[str] = []
        """New mounts and processes of the host that stayed."""


async def let_loose(technology: Technology, directory: Path) -> Run:
    run, before = Run(), Host()
    async with technology() as sandbox, world(sandbox, directory) as at:
        names = list(CASES)
        ended = await asyncio.gather(*(at.run(name, CASES[name]) for name in names), return_exceptions=True)
        run.ended = dict(zip(names, ended, strict=True))
        run.visitors = at.bait.visitors
        run.honest = (await sandbox.run(sandbox_spec("echo", "fine"), asyncio.Event())).log
    run.left = await before.left_since()
    return run


@pytest.mark.timeout(280)
class HostileSuite:
    """The class for an adapter gives the fixture ``technology`` (scope class), which leaves nothing when it ends."""

    weaker: Mapping[str, Callable[[Ended], None]] = {}
    """Programs that the adapter withstands less well, each with what is true there and its reason. Documented."""

    company: Case = Case()
    """How programs are run that come in twos."""

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, technology, tmp_path_factory):
        return asyncio.run(let_loose(technology, tmp_path_factory.mktemp("world")))

    @pytest.fixture
    async def at(self, technology, tmp_path):
        async with technology() as sandbox, world(sandbox, tmp_path) as at:
            yield at

    @pytest.mark.parametrize("program", CASES)
    def test_it_gets_nothing(self, run, program):
        ended = run.ended[program]
        if isinstance(ended, BaseException):
            raise ended
        log = ended.end.log.decode()
        if program in self.weaker:
            self.weaker[program](ended)
            return
        assert "BROKE OUT" not in log, log[-3000:]
        assert len(log) <= SMALL.log_chars + 100
        CASES[program].must(ended)

    def test_nobody_reached_the_host(self, run):
        assert run.visitors == []

    def test_no_mount_and_no_process_of_theirs_is_left(self, run):
        assert run.left == []

    def test_honest_programs_work_after_all_of_them(self, run):
        assert run.honest == b"fine\n"

    async def test_a_fork_bomb_does_not_keep_others_from_working(self, at):
        beside = asyncio.ensure_future(at.sandbox.run(sandbox_spec("echo", "fine"), asyncio.Event()))
        ended = await at.run("resources/fork_bomb", CASES["resources/fork_bomb"])
        assert ended.end.exit.timed_out or ended.end.exit.exit_code is not None
        assert (await beside).log == b"fine\n"

    async def test_siblings_do_not_find_each_other(self, at: World):
        names = ("network/sibling_listens", "network/sibling_calls")
        for ended in await asyncio.gather(*(at.run(name, self.company) for name in names)):
            assert ended.end.log == b""
            assert ended.end.exit.exit_code == 0

    async def test_the_next_tenant_finds_nothing_of_the_last(self, at: World):
        for _ in range(2):
            left = await at.run("network/leaves_for_the_next", self.company)
            assert left.end.log == b"left 20\n"
            looked = await at.run("network/looks_for_the_last", self.company)
            assert looked.end.log == b""
            assert looked.end.exit.exit_code == 0

    async def test_the_socket_of_a_dead_run_is_dead(self, at: World):
        """A socket's directory that outlives its nginx, as after a crash: nobody answers there."""
        ended = await at.run("proxy/its_directory", Case(proxied=True))
        directory = ended.spec.proxy_dir
        assert not (directory / PROXY_SOCKET).exists()
        directory.mkdir(parents=True)
        try:
            ask = "import urllib.request as u; u.urlopen('{proxy_url}/v1/models', timeout=20)"
            spec = sandbox_spec("bash", "-c", 'python3 -c "$ASK" 2>&1 | tail -1', env={"ASK": ask}, proxy_dir=directory)
            end = await at.sandbox.run(spec, asyncio.Event())
        finally:
            directory.rmdir()
            directory.parent.rmdir()
        assert re.search(rb"502|refused|reset|closed", end.log), end.log

    @pytest.mark.parametrize("kind", ["up", "absolute", "hard link", "device", "through a link", "twice", "bomb"])
    async def test_tars_that_want_more_than_files(self, at: World, kind):
        spec = sandbox_spec(
            *("bash", "-c", "ls -la /sandbox /sandbox/repo; cat /sandbox/x /sandbox/repo/x"),
            files=(REPO, hostile_tar(kind)),
        )
        try:
            end = await at.sandbox.run(spec, asyncio.Event())
        except SandboxFailed:
            assert kind != "twice"
        else:
            assert b"root:x:0" not in end.log
            assert kind not in ("up", "absolute", "hard link", "device", "through a link")
        finally:
            await gone(spec)


def hostile_tar(kind: str) -> bytes:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, content: bytes = b"", **fields: object) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for field, value in fields.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(content))

        if kind == "up":
            add("repo/../../tmp/x", b"x")
        elif kind == "absolute":
            add("/tmp/x", b"x")
        elif kind == "hard link":
            add("x", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        elif kind == "device":
            add("x", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        elif kind == "through a link":
            add("out", type=tarfile.SYMTYPE, linkname="../etc")
            add("out/x", b"x")
        elif kind == "twice":
            add("x", b"first")
            add("x", b"second")
        else:
            add("x", b"\0" * (64 << 20))
    return buffer.getvalue()


def test_every_program_of_the_folder_is_tried():
    found = {str(path.relative_to(PROGRAMS).with_suffix("")) for path in PROGRAMS.glob("*/*.py")}
    assert found == CASES.keys() | IN_COMPANY
    assert len(found) >= 60
    assert tar_of({}) is not None
