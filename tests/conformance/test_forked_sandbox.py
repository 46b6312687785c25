"""Sandboxes that are forked, not started: they are what bwrap makes, and a prepared command is like any other."""

import asyncio
import contextlib
import gc
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from conformance.isolation_suite import IsolationSuite
from conformance.sandbox_suite import SandboxSuite
from sandboxes import gone, processes_of, python, sandbox_spec, tar_of
from structlog.testing import capture_logs

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.evaluator.inside import run_tests
from ridges.sandbox_manager import fork_server
from ridges.sandbox_manager.agent_sandbox import PYTEST_OF_GRADERS
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.errors import SandboxManagerError

pytestmark = pytest.mark.bubblewrap
PORTRAIT = """
import json, os, resource, signal, sys
def text(path):
    return open(path).read()
status = dict(line.split(":", 1) for line in text("/proc/self/status").splitlines())
first = dict(line.split(":", 1) for line in text("/proc/1/status").splitlines())
kept = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
        "Seccomp_filters", "SigBlk", "SigIgn", "SigCgt", "NSpid", "NSsid", "Umask")
def listing(path):
    return {name: (oct(os.lstat(os.path.join(path, name)).st_mode & 0o170000),
                   os.readlink(os.path.join(path, name)) if os.path.islink(os.path.join(path, name)) else None)
            for name in sorted(os.listdir(path))}
mounts = {}
for line in text("/proc/self/mountinfo").splitlines():
    fields, _, after = line.partition(" - ")
    root, point, options = fields.split()[3:6]
    kind, _, of_all = after.split()
    mounts[point] = [root, kind, sorted(options.split(",")), sorted(of_all.split(","))]
print(json.dumps({
    "status": {name: status[name].strip() for name in kept},
    "first": {name: first[name].strip() for name in kept if name not in ("SigIgn", "SigCgt")},
    "ids": [os.getuid(), os.getgid(), os.getgroups(), os.getsid(0), os.getpgid(0), os.getcwd()],
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name[:6] == "RLIMIT"},
    "environment": dict(os.environ),
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "host": os.uname()[1],
    "root": listing("/"), "etc": listing("/etc"), "dev": listing("/dev"), "run": listing("/run"),
    "maps": [text("/proc/self/" + name).split() for name in ("uid_map", "gid_map", "setgroups")],
    "interfaces": sorted(line.split(":")[0].strip() for line in text("/proc/net/dev").splitlines()[2:]),
    "addresses": text("/proc/net/if_inet6").split(), "routes": text("/proc/net/fib_trie"),
    "more namespaces": text("/proc/sys/user/max_user_namespaces"),
    "score": text("/proc/self/oom_score_adj"),
    "mounts": mounts,
}))
"""
PRELOAD = ("json", "unittest", "pytest", "no_such_module_at_all")


def prepared(script: str, *options: str, **changes):
    """A spec whose command is a script in a process that was forked with its modules."""
    spec = sandbox_spec("python3", *options, "script.py", "one", "2", **changes)
    return msgspec.structs.replace(spec, files=(tar_of({"script.py": script}), *spec.files), preload=PRELOAD)


@pytest.fixture
def sandbox(bubblewrap_works):
    sandbox = BubblewrapSandbox()
    yield sandbox
    sandbox.close()


class TestStartedByBwrap(SandboxSuite, IsolationSuite):
    """Where sandboxes cannot be forked."""

    construct = (
        "from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox;"
        " sandbox = BubblewrapSandbox(fork_server=False)"
    )

    @pytest.fixture
    def sandbox(self, bubblewrap_works):
        return BubblewrapSandbox(fork_server=False)


async def portrait(sandbox):
    end = await sandbox.run(sandbox_spec(*python(PORTRAIT), env={"TEST_SANDBOX_MARK": "same"}), asyncio.Event())
    return json.loads(end.log)


def without(options, *differing):
    return [option for option in options if option.partition("=")[0] not in differing]


async def test_a_forked_sandbox_is_what_bwrap_makes(sandbox, proxy_dir):
    forked, started = await portrait(sandbox), await portrait(BubblewrapSandbox(fork_server=False))
    mounts, expected = forked.pop("mounts"), started.pop("mounts")
    assert forked == started
    assert mounts.keys() == expected.keys()
    for point, (root, kind, options, of_all) in mounts.items():
        wanted_root, wanted_kind, wanted_options, wanted_of_all = expected[point]
        assert kind == wanted_kind
        if point != "/":  # bwrap's is a folder of a larger one
            assert root == wanted_root
            assert without(of_all, "size", "uid", "gid") == without(wanted_of_all, "size", "uid", "gid")
        tighter = point == "/proc/sys" or (point.startswith("/dev/") and kind == "devtmpfs")
        ignored = ("ro", "rw", "noexec") if tighter else ()
        assert without(options, *ignored) == without(wanted_options, *ignored), point
        assert not tighter or {"ro", "noexec"} <= set(options)


@pytest.mark.parametrize(
    ("options", "env"),
    [(("-I",), {}), ((), {}), ((), {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"})],
    ids=["isolated", "plain", "as agents"],
)
async def test_a_prepared_script_is_like_one_that_was_started(sandbox, options, env):
    script = """
import json, os, signal, sys, resource
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": __file__, "main": sys.modules["__main__"].__file__,
    "path": sys.path, "executable": sys.executable, "prefix": sys.prefix,
    "flags": str(sys.flags),
    "environment": dict(os.environ), "folder": os.getcwd(), "leader": os.getsid(0) == os.getpid(),
    "original": sys.orig_argv[1:], "title": open("/proc/self/cmdline").read().rstrip("\\0"),
    "shown": open("/proc/self/comm").read(), "write through": sys.stdout.write_through,
    "stdin": sys.stdin.read(), "encoding": sys.stdout.encoding, "byte code": sys.dont_write_bytecode,
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "signals": {number: str(signal.getsignal(number)) for number in (2, 13, 17, 25)},
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "core": resource.getrlimit(resource.RLIMIT_CORE), "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "score": open("/proc/self/oom_score_adj").read(), "ours": [name for name in sys.modules if "ridges" in name],
}))
print("to stderr", file=sys.stderr)
"""
    spec = prepared(script, *options, env={"GIVEN": "yes", "TEST_SANDBOX_MARK": "same", **env})
    forked = await sandbox.run(spec, asyncio.Event())
    started = await BubblewrapSandbox(fork_server=False).run(spec, asyncio.Event())
    assert forked.exit.exit_code == started.exit.exit_code == 0
    facts, expected = (
        next(json.loads(line) for line in end.log.splitlines() if line.startswith(b"{")) for end in (forked, started)
    )
    assert facts == expected
    assert b"to stderr\n" in forked.log
    assert facts["argv"] == ["script.py", "one", "2"]
    assert facts["environment"]["GIVEN"] == "yes"


async def test_modules_are_there_before_the_script_asks(sandbox):
    end = await sandbox.run(prepared("import sys; print('pytest' in sys.modules)"), asyncio.Event())
    assert end.log == b"True\n"


@pytest.mark.parametrize(
    ("script", "exit_code", "said"),
    [
        ("raise SystemExit", 0, ""),
        ("import sys; print('half', end=''); sys.exit(7)", 7, "half"),
        ("raise SystemExit('no way')", 1, "no way\n"),
        ("import os; os._exit(9)", 9, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os; os.kill(os.getpid(), 15)", -15, ""),
        ("print(1 / 0)", 1, "ZeroDivisionError"),
        ("def broken(:", 1, "SyntaxError"),
    ],
)
async def test_every_end_of_a_prepared_script_is_told(sandbox, script, exit_code, said):
    spec = prepared(script)
    end = await sandbox.run(spec, asyncio.Event())
    assert end.exit.exit_code == exit_code
    assert said in end.log.decode()
    assert not end.exit.timed_out
    await gone(spec)


async def test_a_script_that_is_missing_is_told(sandbox):
    spec = msgspec.structs.replace(prepared(""), files=())
    end = await sandbox.run(spec, asyncio.Event())
    assert end.exit.exit_code != 0
    assert b"script.py" in end.log


async def test_limits_hold_for_prepared_scripts(sandbox):
    hungry = prepared('held = [b"x" * (1 << 20) for _ in range(2000)]\nprint(len(held))')
    end = await sandbox.run(hungry, asyncio.Event())
    assert end.exit.out_of_memory
    assert end.exit.peak_memory_bytes <= hungry.limits.memory_bytes
    busy = await sandbox.run(prepared("import time\nwhile time.process_time() < 0.5: pass"), asyncio.Event())
    assert 0.4 <= busy.exit.cpu_s <= 3
    bomb = "import os, time\nfor n in range(1000):\n if not os.fork(): time.sleep(60)"
    spec = prepared(bomb, limits=SandboxLimits(memory_bytes=512 * MIB, disk_bytes=16 * MIB, pids=20), timeout_s=5)
    end = await sandbox.run(spec, asyncio.Event())
    assert b"BlockingIOError" in end.log
    assert (end.exit.pids_peak or 0) <= 20
    late = await sandbox.run(prepared("import time; time.sleep(60)", timeout_s=0.5), asyncio.Event())
    assert late.exit.timed_out


@pytest.mark.parametrize("ready", [(), PYTEST_OF_GRADERS], ids=["", "with pytest ready"])
async def test_nothing_of_the_host_can_be_written_through_the_interpreter_it_was_forked_from(sandbox, ready):
    script = """
import os
for path in ("/proc/self/exe", "/proc/%d/exe" % os.getppid(), "/proc/1/exe", "/proc/1/root/etc/passwd"):
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        try:
            os.open(path, flags)
            print("opened", path)
        except OSError:
            pass
held = os.open("/proc/self/exe", os.O_PATH)
if os.fork():
    os.wait()
else:
    os.execvp("python3", ["python3", "-c", '''
import os, sys
try:
    os.open("/proc/self/fd/%s" % sys.argv[1], os.O_RDWR)
    print("opened later")
except OSError as error:
    print(error.strerror)
''', str(os.dup(held))])
for name in os.listdir("/proc/self/fd"):
    print(name, os.path.realpath("/proc/self/fd/" + name).split(":")[0])
"""
    end = await sandbox.run(prepared(script, pytest=ready), asyncio.Event())
    assert b"opened" not in end.log
    assert end.exit.exit_code == 0, end.log


async def test_a_sandbox_knows_nothing_of_another_that_was_forked_before(sandbox, proxy_dir):
    secret = "a-word-of-" + os.urandom(8).hex()
    named = prepared(f"print({secret!r})", sandbox_id=secret, env={"WORD": secret}, proxy_dir=proxy_dir / secret)
    (proxy_dir / secret).mkdir()
    await sandbox.run(named, asyncio.Event())
    look = """
import re
found = set()
for line in open("/proc/self/maps"):
    start, end = (int(each, 16) for each in line.split()[0].split("-"))
    if "r" in line.split()[1] and "[v" not in line:
        with open("/proc/self/mem", "rb", 0) as memory:
            memory.seek(start)
            found.update(re.findall(rb"a-word-of-[0-9a-f]{16}", memory.read(end - start)))
print(sorted(found))
"""
    own = await sandbox.run(prepared(look, env={"WORD": "a-word-of-" + 16 * "0"}), asyncio.Event())
    assert own.log == b"[b'a-word-of-0000000000000000']\n"


READY = """
import os, sys
ready = sys.modules.get("ready_pytest")
print(ready and ready.config.rootpath, os.getcwd(), "PYTEST_VERSION" in os.environ, os.listdir("/sandbox"))
"""


async def test_a_script_finds_the_pytest_that_it_is_going_to_use(sandbox):
    """With the options that the evaluator's test processes want: one that finds others has pytest read them anew."""
    folder = PYTEST_OF_GRADERS[PYTEST_OF_GRADERS.index("--rootdir") + 1]
    assert (*run_tests.arguments(folder), folder) == PYTEST_OF_GRADERS
    end = await sandbox.run(prepared(READY, pytest=PYTEST_OF_GRADERS), asyncio.Event())
    assert end.log.decode() == f"{folder} /sandbox False ['script.py']\n"


async def test_a_pytest_that_does_not_get_ready_is_in_nobodys_way(sandbox):
    end = await sandbox.run(prepared(READY, pytest=(*PYTEST_OF_GRADERS, "--no-such-option")), asyncio.Event())
    assert end.log == b"None /sandbox False ['script.py']\n"


async def test_a_killed_fork_server_takes_its_sandboxes_along_and_the_next_one_works(sandbox):
    spec = sandbox_spec("sleep", "60")
    running = asyncio.ensure_future(sandbox.run(spec, asyncio.Event()))
    async with asyncio.timeout(30):
        while not any("sleep 60" in line for line in processes_of(spec)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    [server] = fork_servers()
    os.kill(server, signal.SIGKILL)
    with pytest.raises(SandboxManagerError):
        await asyncio.wait_for(running, 20)
    await gone(spec)
    assert (await sandbox.run(sandbox_spec("true"), asyncio.Event())).exit.exit_code == 0


def kill_and_see(pid: int) -> None:
    """Returns when the process has ended, while nothing else of this one goes on."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def test_a_fork_server_that_dies_with_questions_open_is_replaced_at_once(sandbox):
    await sandbox.run(sandbox_spec("true"), asyncio.Event())
    [server] = fork_servers()
    os.kill(server, signal.SIGSTOP)
    unanswered = asyncio.create_task(sandbox.run(sandbox_spec("true"), asyncio.Event()))
    await asyncio.sleep(0.1)
    kill_and_see(server)
    following = asyncio.create_task(sandbox.run(sandbox_spec("true"), asyncio.Event()))  # before its end was seen
    assert (await asyncio.wait_for(following, 20)).exit.exit_code == 0
    with pytest.raises(SandboxManagerError):
        await asyncio.wait_for(unanswered, 20)
    assert (await sandbox.run(sandbox_spec("true"), asyncio.Event())).exit.exit_code == 0


@contextlib.contextmanager
def allowed_no_child(pid: int) -> Iterator[None]:
    """The process is in a control group of its own that is full with it."""
    group = Path(f"/sys/fs/cgroup/pids/ridges-test-{pid}")
    if not group.parent.is_dir():
        pytest.skip("needs the pids controller of control groups, version 1")
    group.mkdir()
    try:
        (group / "pids.max").write_text("1")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


async def test_a_machine_that_can_fork_no_more_is_told_and_the_server_goes_on(sandbox):
    assert (await sandbox.run(sandbox_spec("true"), asyncio.Event())).exit.exit_code == 0
    [server] = fork_servers()
    with allowed_no_child(server), pytest.raises(SandboxManagerError, match="nothing can be forked"):
        await sandbox.run(sandbox_spec("true"), asyncio.Event())
    assert (await sandbox.run(sandbox_spec("true"), asyncio.Event())).exit.exit_code == 0
    assert fork_servers() == [server]


async def test_a_fork_server_does_not_grow(sandbox):
    for _ in range(5):
        await sandbox.run(prepared("pass"), asyncio.Event())
    [server] = fork_servers()

    def held() -> tuple[int, int]:
        """Descriptors, and KiB of its own."""
        process = Path(f"/proc/{server}")
        private = re.findall(r"^Private_\w+: +(\d+)", (process / "smaps").read_text(), re.MULTILINE)
        own = sum(map(int, private))
        return len(list((process / "fd").iterdir())), own

    before = held()
    for _ in range(10):
        await asyncio.gather(*(sandbox.run(prepared("print('x' * 100000)"), asyncio.Event()) for _ in range(6)))
    descriptors, own_kib = held()
    assert descriptors == before[0]
    assert own_kib <= before[1] + 512


async def test_closing_or_forgetting_the_adapter_ends_its_servers(bubblewrap_works):
    for let_go in (lambda sandbox: sandbox.close(), lambda sandbox: None):
        sandbox = BubblewrapSandbox()
        await sandbox.run(prepared("pass"), asyncio.Event())
        await sandbox.run(sandbox_spec("true"), asyncio.Event())
        assert len(fork_servers()) == 2
        let_go(sandbox)
        del sandbox
        gc.collect()
        assert fork_servers() == []


@pytest.mark.parametrize("ends", ["os.abort()", "os._exit(0)", "sys.exit(3)"])
async def test_a_module_that_ends_its_interpreter_costs_the_preparation_alone(bubblewrap_works, tmp_path, ends):
    """The self-test prepares no command: it would not find out, and every run would end as our fault."""
    (tmp_path / "fatal.py").write_text(f"import os, sys\n{ends}\n")
    spec = sandbox_spec(
        *("python3", "/sandbox/script.py"),
        files=(tar_of({"script.py": "print('ran')"}),),
        preload=("fatal",),
        env={"PYTHONPATH": str(tmp_path)},
    )
    sandbox = BubblewrapSandbox()
    with capture_logs() as logs:
        ends = await asyncio.gather(*(sandbox.run(renamed(spec), asyncio.Event()) for _ in range(3)))
    assert [end.log for end in ends] == [b"ran\n"] * 3
    told = [entry for entry in logs if entry["event"] == "commands are not prepared for a while"]
    assert told
    assert "the fork server does not start" in told[0]["error"]
    sandbox.close()


def renamed(spec):
    return msgspec.structs.replace(spec, sandbox_id=str(uuid4()))


async def test_where_nothing_can_be_forked_bwrap_is_used_and_that_is_told_once(bubblewrap_works, monkeypatch):
    def refuse():
        raise PermissionError("no mounts for you")

    monkeypatch.setattr(fork_server, "_be_apart", refuse)
    sandbox = BubblewrapSandbox()
    with capture_logs() as logs:
        await sandbox.check()
        await sandbox.check()
        end = await sandbox.run(prepared("import sys; print('pytest' in sys.modules)"), asyncio.Event())
    assert end.log == b"False\n"
    assert "started by bwrap" in sandbox.manner
    assert "no mounts for you" in sandbox.manner
    assert [entry["event"] for entry in logs] == ["sandboxes cannot be forked here, bwrap starts them"]
    monkeypatch.undo()
    await sandbox.check()
    assert sandbox.manner == "forked"
    assert (await sandbox.run(prepared("import sys; print('pytest' in sys.modules)"), asyncio.Event())).log == b"True\n"


def fork_servers() -> list[int]:
    """Children of this process that are fork servers."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    children = [int(pid) for path in tasks for pid in path.read_text().split()]
    return [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ridges fork server")]
