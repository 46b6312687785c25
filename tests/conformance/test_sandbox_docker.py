"""The Docker adapter under the sandbox suites, with a real engine."""

import asyncio
import contextlib
import os
import random
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import structlog
from conformance.isolation_suite import IsolationSuite
from conformance.proxy_path_suite import ProxyPathSuite
from conformance.sandbox_suite import REPO, SandboxSuite
from conformance.snapshot_suite import SnapshotSuite
from docker_images import AGENT_IMAGE, docker, need_agent_image
from engine_proxy import engine_behind
from sandboxes import Relayed, gone, python, sandbox_spec

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager import docker_config, docker_engine
from ridges.sandbox_manager.docker_config import DEADLINE_LABEL, OWNER_LABEL, RUN_LABEL, SANDBOX_LABEL
from ridges.sandbox_manager.docker_engine import DockerSandbox, HostPath
from ridges.sandbox_manager.errors import ImageMissing, SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.ports import PROXY_URL, SandboxSpec

OWNER = f"test-{uuid.uuid4()}"


def names_of(spec: SandboxSpec) -> tuple[str, str]:
    """Of its container, and of its relay's."""
    return f"ridges-{spec.sandbox_id}", f"ridges-{spec.sandbox_id}-relay"


def seen_of(pid: str) -> tuple[dict[str, str], str, str]:
    """Of a process: its namespaces, what is mounted in it, and its status."""
    proc = Path("/proc", pid)
    spaces = {kind: os.readlink(proc / "ns" / kind) for kind in ("net", "pid", "mnt", "ipc", "uts")}  # noqa: PTH115
    return spaces, (proc / "mountinfo").read_text(), (proc / "status").read_text()


def owned_by(owner: str) -> list[str]:
    return docker("ps", "-aq", "--filter", f"label={OWNER_LABEL}={owner}").split()


KILLED = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from sandboxes import sandbox_spec
from ridges.sandbox_manager.docker_engine import DockerSandbox
asyncio.run({{adapter}}.run(sandbox_spec("sleep", "100", timeout_s=100, {{changes}}), asyncio.Event()))
"""


async def until_killed(program: str, *, running: int) -> None:
    """Kills a manager when its containers run; returns when none of them runs any more."""

    async def at_work() -> list[str]:
        found = await asyncio.to_thread(docker, "ps", "-q", "--filter", f"label={OWNER_LABEL}={OWNER}")
        return found.split()

    manager = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    async with asyncio.timeout(60):
        while len(await at_work()) < running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        manager.kill()
        await manager.wait()
    async with asyncio.timeout(10):
        while await at_work():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def docker_works():
    need_agent_image()


@pytest.mark.docker
class TestDocker(SandboxSuite, SnapshotSuite, IsolationSuite, ProxyPathSuite):
    construct = (
        "from ridges.sandbox_manager.docker_engine import DockerSandbox;"
        f" sandbox = DockerSandbox(owner={OWNER!r}, default_image={AGENT_IMAGE!r})"
    )

    @pytest.fixture
    def owner(self):
        return OWNER

    @pytest.fixture
    async def sandbox(self, docker_works, owner):
        adapter = DockerSandbox(owner=owner, default_image=AGENT_IMAGE)
        yield adapter
        await adapter.close()
        assert owned_by(owner) == [], "containers left"

    async def test_a_missing_image_is_named_with_what_builds_it(self, sandbox):
        with pytest.raises(ImageMissing, match=r"ridges-nowhere:1 is not on this machine.*just images nowhere"):
            await sandbox.run(sandbox_spec("true", image="ridges-nowhere:1"), asyncio.Event())
        with pytest.raises(ImageMissing, match=r"docker pull example\.org/x:2"):
            await sandbox.run(sandbox_spec("true", image="example.org/x:2"), asyncio.Event())
        missing = DockerSandbox(owner="test", default_image="ridges-nowhere:1")
        with pytest.raises(SandboxUnavailable, match="ridges-nowhere:1"):
            await missing.check()
        await missing.close()

    async def test_no_engine_says_what_to_do(self, tmp_path):
        nowhere = DockerSandbox(owner="test", default_image=AGENT_IMAGE, engine_url=f"unix://{tmp_path}/no.sock")
        with pytest.raises(SandboxUnavailable, match=r"no Docker Engine answers at unix://.*start it"):
            await nowhere.check()
        remote = DockerSandbox(owner="test", default_image=AGENT_IMAGE, engine_url="tcp://127.0.0.1:9")
        with pytest.raises(SandboxUnavailable, match="not a local Docker Engine"):
            await remote.check()

    async def test_every_sandbox_carries_its_labels_and_flags(self, sandbox, owner):
        deadline = datetime.now(UTC) + timedelta(minutes=3)
        spec = sandbox_spec("sleep", "30", deadline=deadline, limits=SandboxLimits(memory_bytes=256 * MIB, pids=77))
        running = asyncio.create_task(sandbox.run(spec, asyncio.Event()))
        for _ in range(100):
            if found := await asyncio.to_thread(owned_by, owner):
                break
            await asyncio.sleep(0.05)
        labels = docker("inspect", "-f", "{{json .Config.Labels}}", found[0])
        for label, value in (
            (OWNER_LABEL, owner),
            (RUN_LABEL, spec.run_id),
            (SANDBOX_LABEL, spec.sandbox_id),
            (DEADLINE_LABEL, deadline.isoformat(timespec="seconds")),
        ):
            assert f'"{label}":"{value}"' in labels
        flags = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}}"
        assert docker("inspect", "-f", flags, found[0]) == f"{256 * MIB} {256 * MIB} 77"
        assert docker("inspect", "-f", "{{.HostConfig.LogConfig.Type}}", found[0]) == "none"
        assert docker("inspect", "-f", "{{.HostConfig.NetworkMode}} {{.Config.User}}", found[0]) == "none 1000:1000"
        assert docker("inspect", "-f", "{{.Config.Image}}", found[0]).startswith("sha256:")
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def test_a_sweep_takes_our_dead_only(self, sandbox, owner):
        def leftover(label_owner: str, sandbox_id: str) -> str:
            labels = ("--label", f"{OWNER_LABEL}={label_owner}", "--label", f"{SANDBOX_LABEL}={sandbox_id}")
            return docker("run", "-d", "--network", "none", *labels, AGENT_IMAGE, "sleep", "60")

        ours_dead, ours_live = leftover(owner, "dead"), leftover(owner, "live")
        others = leftover(f"{owner}-other", "dead")
        at_work = sandbox_spec(*python("import time; time.sleep(3); print('done')"))
        running = asyncio.create_task(sandbox.run(at_work, asyncio.Event()))
        try:
            await asyncio.sleep(1)
            assert await sandbox.sweep({"live"}) == 1
            left = docker("ps", "-aq", "--no-trunc").split()
            assert ours_dead not in left
            assert {ours_live, others} <= set(left)
            assert (await running).log == b"done\n"
        finally:
            docker("rm", "-f", ours_live, others)

    async def test_each_has_an_empty_network_of_its_own_with_a_working_loopback(self, sandbox):
        look = (
            "import os, socket\n"
            "server = socket.create_server((socket.gethostbyname('localhost'), 0))\n"
            "socket.create_connection(('localhost', server.getsockname()[1])).close()\n"
            "names = [line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]]\n"
            "print(socket.gethostname(), names, os.stat('/proc/self/ns/net').st_ino)\n"
            "import time; time.sleep(3)\n"
        )
        both = await asyncio.gather(*(sandbox.run(sandbox_spec(*python(look)), asyncio.Event()) for _ in range(2)))
        said = [end.log.decode().split() for end in both]
        assert [words[:2] for words in said] == [["sandbox", "['lo']"]] * 2
        namespaces = {words[2] for words in said}
        assert len(namespaces) == 2
        assert str(os.stat("/proc/self/ns/net").st_ino) not in namespaces  # noqa: PTH116

    async def test_an_engine_that_goes_while_many_starts_are_cancelled_keeps_nothing_of_them(
        self, docker_works, owner, tmp_path
    ):
        pauses = random.Random(4)
        async with engine_behind(tmp_path / "s") as engine:
            sandbox = DockerSandbox(owner=owner, default_image=AGENT_IMAGE, engine_url=f"unix://{tmp_path}/s")
            specs = [sandbox_spec("sleep", "100", timeout_s=100) for _ in range(20)]
            starts = [asyncio.create_task(sandbox.run(spec, asyncio.Event())) for spec in specs]
            for number, start in enumerate(starts):
                await asyncio.sleep(pauses.uniform(0, 0.3))
                engine.away = 8 <= number < 14
                if engine.away:
                    engine.cut()
                start.cancel()
            ended = await asyncio.gather(*starts, return_exceptions=True)
            assert {type(end) for end in ended} <= {asyncio.CancelledError, SandboxUnavailable, SandboxFailed}
            async with asyncio.timeout(60):  # what it was asked for before it went, it may do yet
                while await asyncio.to_thread(owned_by, owner):
                    await sandbox.sweep(set())
            assert await sandbox.run(sandbox_spec("true"), asyncio.Event())
            await sandbox.close()
        for spec in specs:
            await gone(spec)

    async def test_what_could_not_be_removed_while_its_run_was_cancelled_is_swept(self, docker_works, owner, tmp_path):
        async with engine_behind(tmp_path / "s") as engine:
            sandbox = DockerSandbox(owner=owner, default_image=AGENT_IMAGE, engine_url=f"unix://{tmp_path}/s")
            spec, begun, over = sandbox_spec("bash", "-c", "echo begun; sleep 1"), asyncio.Event(), asyncio.Event()
            spec = msgspec.structs.replace(spec, on_log=lambda *_: begun.set(), on_exit=lambda _: over.set())
            running = asyncio.create_task(sandbox.run(spec, asyncio.Event()))
            await asyncio.wait_for(begun.wait(), 20)
            engine.silent = True  # so that its removal takes long
            await asyncio.wait_for(over.wait(), 20)
            running.cancel()
            await asyncio.sleep(0.1)
            engine.silent, engine.away = False, True
            engine.cut()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await asyncio.to_thread(owned_by, owner)
            engine.away = False
            assert await sandbox.sweep(set()) == 1
            assert await asyncio.to_thread(owned_by, owner) == []
            await sandbox.close()
        await gone(spec)

    async def test_its_hosts_file_may_go_while_the_manager_lives(self, docker_works, owner, tmp_path):
        sandbox = DockerSandbox(owner=owner, default_image=AGENT_IMAGE, hosts_file=tmp_path / "hosts")
        for _ in range(2):
            end = await sandbox.run(sandbox_spec("cat", "/etc/hosts"), asyncio.Event())
            assert end.log == (tmp_path / "hosts").read_bytes()
            assert b"127.0.0.1 localhost" in end.log
            (tmp_path / "hosts").unlink()
        await sandbox.close()

    async def test_sweeps_meanwhile_do_not_take_a_network_away(self, sandbox, owner):
        async def sweeping():
            while True:
                assert await sandbox.sweep(set()) == 0
                await asyncio.sleep(0)

        sweeps = asyncio.create_task(sweeping())
        with structlog.testing.capture_logs() as said:
            for _ in range(6):
                assert (await sandbox.run(sandbox_spec("echo", "fine"), asyncio.Event())).log == b"fine\n"
                await asyncio.sleep(0.4)
        assert not sweeps.done(), sweeps.exception()
        sweeps.cancel()
        assert said == []

    async def test_full_temporary_file_systems_do_not_cost_the_result(self, sandbox):
        fill = "for d in /sandbox /tmp $HOME /dev/shm; do head -c 400M /dev/zero > $d/x 2>/dev/null; done; echo filled"
        limits = SandboxLimits(memory_bytes=256 * MIB, disk_bytes=1024 * MIB)
        end = await sandbox.run(sandbox_spec("bash", "-c", fill, limits=limits), asyncio.Event())
        assert b"filled" in end.log
        assert end.exit.exit_code == 0

    async def test_a_killed_manager_takes_its_sandbox_with_it(self, docker_works, owner):
        construct = f"DockerSandbox(owner={owner!r}, default_image={AGENT_IMAGE!r})"
        await until_killed(KILLED.format(adapter=construct, changes=""), running=1)
        adapter = DockerSandbox(owner=owner, default_image=AGENT_IMAGE)
        assert await adapter.sweep(set()) == 1
        await adapter.close()
        assert owned_by(owner) == []


MEMORY = "cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes /sys/fs/cgroup/memory.peak 2>/dev/null; true"
INTERNAL = SandboxLimits(memory_bytes=256 * MIB, network="internal")
WAITS = "print('begun', flush=True); import time; time.sleep(60)"


@pytest.mark.docker
class TestDockerInternal(SandboxSuite, IsolationSuite, ProxyPathSuite):
    """Each of its sandboxes has a relay."""

    construct = TestDocker.construct.replace("sandbox = DockerSandbox(", "sandbox = DockerSandbox(network='internal', ")

    @pytest.fixture
    async def sandbox(self, docker_works, tmp_path):
        (tmp_path / "nobody").mkdir()
        adapter = DockerSandbox(owner=OWNER, default_image=AGENT_IMAGE, network="internal")
        yield Relayed(adapter, tmp_path / "nobody")
        await adapter.close()
        assert owned_by(OWNER) == [], "containers left"

    async def test_it_passes_a_self_test_of_its_own(self, docker_works):
        adapter = DockerSandbox(owner=OWNER, default_image=AGENT_IMAGE)
        await adapter.admit(sandbox_spec("true", limits=INTERNAL))
        await adapter.close()

    async def test_neither_sees_the_other_but_for_one_port(self, sandbox, proxy_dir):
        spec, begun = sandbox_spec(*python(WAITS), proxy_dir=proxy_dir), asyncio.Event()
        spec = msgspec.structs.replace(spec, on_log=lambda *_: begun.set())
        async with asyncio.timeout(30):
            running = asyncio.create_task(sandbox.run(spec, asyncio.Event()))
            await begun.wait()
        ours, relay = (docker("inspect", "-f", "{{.State.Pid}}", name) for name in names_of(spec))
        (seen, mounts, _), (other, _, status) = seen_of(ours), seen_of(relay)
        assert {kind for kind in seen if seen[kind] == other[kind]} == {"net"}
        assert "/run/ridges" not in mounts
        assert "Uid:\t1001\t" in status
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def test_a_relay_holds_what_all_its_connections_fill(self, sandbox, proxy_dir):
        fill = (
            "import os, socket, time\n"
            "host, port = os.environ['PROXY'][7:].split(':')\n"
            "held = []\n"
            "for n in range(400):\n"
            "    sock = socket.create_connection((host, int(port)), timeout=20)\n"
            "    sock.settimeout(0.01)\n"
            "    held.append(sock)\n"
            "for again in range(2):\n"
            "    for sock in held:\n"
            "        try:\n            while True: sock.send(bytes(1 << 20))\n"
            "        except TimeoutError: pass\n"
            "print('full', flush=True); time.sleep(2)\n"
            "for sock in held: sock.close()\n"
            "sock = socket.create_connection((host, int(port)), timeout=20); sock.sendall(b'x'); print(sock.recv(1))\n"
        )
        spec, full = sandbox_spec(*python(fill), proxy_dir=proxy_dir, timeout_s=100, env={"PROXY": PROXY_URL}), []

        def on_log(_: int, __: bytes) -> None:
            if not full:
                full.append(docker("exec", names_of(spec)[1], "sh", "-c", MEMORY).split()[0])

        end = await sandbox.run(msgspec.structs.replace(spec, on_log=on_log), asyncio.Event())
        assert end.log == b"full\nb'x'\n"
        assert end.exit.exit_code == 0
        assert 0 < int(full[0]) < 110 * MIB, full

    @pytest.mark.parametrize("how", ["killed", "out of memory"])
    async def test_a_sandbox_that_lost_its_relay_says_why(self, sandbox, proxy_dir, how):
        flood = (
            "import os, socket, time\n"
            "open('repo/mine', 'w').write('mine'); print('begun', flush=True)\n"
            "host, port = os.environ['PROXY'][7:].split(':')\n"
            "held = []\n"
            "while True:\n"
            "    try:\n"
            "        held.append(socket.create_connection((host, int(port)), timeout=1)); held[-1].settimeout(0.05)\n"
            "        while True: held[-1].send(bytes(1 << 20))\n"
            "    except OSError: time.sleep(0.01)\n"
        )
        begun = asyncio.Event()
        spec = sandbox_spec(
            *python(flood), proxy_dir=proxy_dir, env={"PROXY": PROXY_URL}, files=(REPO,), repo=True, timeout_s=60
        )
        running = asyncio.create_task(
            sandbox.run(msgspec.structs.replace(spec, on_log=lambda *_: begun.set()), asyncio.Event())
        )
        async with asyncio.timeout(50):
            await begun.wait()
            if how == "killed":
                docker("kill", names_of(spec)[1])
                with pytest.raises(SandboxFailed, match="its relay ended with exit code 137"):
                    await running
            else:
                docker("update", "--memory", "12m", "--memory-swap", "12m", names_of(spec)[1])
                end = await running
                assert (end.exit.out_of_memory, end.exit.timed_out) == (True, False)
                assert b"+mine" in end.difference
        await gone(spec)

    async def test_a_network_that_cannot_be_shared_is_refused(self, docker_works, monkeypatch):
        apart = docker_config.container_config

        def of_its_own(*given, relay, **more):
            return apart(*given, **more)

        monkeypatch.setattr(docker_engine, "container_config", of_its_own)
        adapter = DockerSandbox(owner=OWNER, default_image=AGENT_IMAGE, network="internal")
        with pytest.raises(SandboxUnavailable, match=r"network internal.*its relay is reached.*ask for"):
            await adapter.check()
        await adapter.close()
        assert owned_by(OWNER) == []

    async def test_cancels_at_any_moment_leave_neither_of_the_two(self, sandbox, proxy_dir):
        pauses = random.Random(7)
        specs = [sandbox_spec("sleep", "100", timeout_s=100, proxy_dir=proxy_dir) for _ in range(16)]
        starts = [asyncio.create_task(sandbox.run(spec, asyncio.Event())) for spec in specs]
        for start in starts:
            await asyncio.sleep(pauses.uniform(0, 0.15))
            start.cancel()
        assert {type(end) for end in await asyncio.gather(*starts, return_exceptions=True)} == {asyncio.CancelledError}
        assert owned_by(OWNER) == []

    async def test_sweeps_meanwhile_take_no_relay_away(self, sandbox, proxy_dir):
        async def sweeping():
            while True:
                assert await sandbox.sweep(set()) == 0
                await asyncio.sleep(0)

        sweeps = asyncio.create_task(sweeping())
        for _ in range(3):
            spec = sandbox_spec("echo", "fine", proxy_dir=proxy_dir)
            assert (await sandbox.run(spec, asyncio.Event())).log == b"fine\n"
        assert not sweeps.done(), sweeps.exception()
        sweeps.cancel()

    async def test_a_killed_manager_takes_both_with_it(self, docker_works, proxy_dir):
        program = KILLED.format(
            adapter=f"DockerSandbox(owner={OWNER!r}, default_image={AGENT_IMAGE!r}, network='internal')",
            changes=f"proxy_dir=__import__('pathlib').Path({str(proxy_dir)!r})",
        )
        await until_killed(program, running=2)
        adapter = DockerSandbox(owner=OWNER, default_image=AGENT_IMAGE)
        assert await adapter.sweep(set()) == 2
        await adapter.close()
        assert owned_by(OWNER) == []


def test_paths_of_a_manager_in_a_container_become_the_engines():
    path = HostPath(Path("/var/lib/ridges/manager"), Path("/srv/ridges/state"))
    assert path(Path("/var/lib/ridges/manager/p/abc/s")) == Path("/srv/ridges/state/p/abc/s")
