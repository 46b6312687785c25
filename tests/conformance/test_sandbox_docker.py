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
from conformance.sandbox_suite import SandboxSuite
from conformance.snapshot_suite import SnapshotSuite
from docker_images import AGENT_IMAGE, docker, need_agent_image
from engine_proxy import engine_behind
from sandboxes import gone, python, sandbox_spec

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.docker_config import DEADLINE_LABEL, OWNER_LABEL, RUN_LABEL, SANDBOX_LABEL
from ridges.sandbox_manager.docker_engine import DockerSandbox, HostPath
from ridges.sandbox_manager.errors import ImageMissing, SandboxFailed, SandboxUnavailable

OWNER = f"test-{uuid.uuid4()}"


def owned_by(owner: str) -> list[str]:
    return docker("ps", "-aq", "--filter", f"label={OWNER_LABEL}={owner}").split()


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
        program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from docker_images import AGENT_IMAGE, docker, need_agent_image
from sandboxes import sandbox_spec
from ridges.sandbox_manager.docker_engine import DockerSandbox
asyncio.run(DockerSandbox(owner={owner!r}, default_image={AGENT_IMAGE!r}).run(
    sandbox_spec("sleep", "100", timeout_s=100), asyncio.Event()))
"""
        manager = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        while not await asyncio.to_thread(docker, "ps", "-q", "--filter", f"label={OWNER_LABEL}={owner}"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        manager.kill()
        await manager.wait()
        async with asyncio.timeout(10):
            while await asyncio.to_thread(docker, "ps", "-q", "--filter", f"label={OWNER_LABEL}={owner}"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        adapter = DockerSandbox(owner=owner, default_image=AGENT_IMAGE)
        assert await adapter.sweep(set()) == 1
        await adapter.close()
        assert owned_by(owner) == []


def test_paths_of_a_manager_in_a_container_become_the_engines():
    path = HostPath(Path("/var/lib/ridges/manager"), Path("/srv/ridges/state"))
    assert path(Path("/var/lib/ridges/manager/p/abc/s")) == Path("/srv/ridges/state/p/abc/s")
