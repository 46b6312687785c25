"""What a sandbox costs from its start to its removal: medians of a do-nothing command, and ratios within one run.

Run: python tests/bench/sandbox_start.py [docker] [bubblewrap]
Rounds of all contenders alternate, so that a busy machine is as bad for each.
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from docker import APIClient
from docker_images import AGENT_IMAGE
from sandboxes import SMALL, sandbox_spec, tar_of

from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.bwrap_program import find_bwrap
from ridges.sandbox_manager.docker_config import container_config, image_of
from ridges.sandbox_manager.docker_engine import DockerSandbox
from ridges.sandbox_manager.interpreter import find_interpreter
from ridges.sandbox_manager.self_test import echoing

ROUNDS = 12
BARE = ("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1")
ROOT = ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--")
Contender = Callable[[], Awaitable[object]]


async def measured(contenders: dict[str, Contender]) -> dict[str, float]:
    """Medians in milliseconds, printed."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():  # images, connections and compiled programs are warm
        await contender()
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            began = time.perf_counter()
            await contender()
            times[name].append((time.perf_counter() - began) * 1000)
    for name, found in times.items():
        print(f"{name:44} {statistics.median(found):6.0f} ms   (fastest {min(found):.0f})")
    return {name: statistics.median(found) for name, found in times.items()}


def program(*command: object) -> Contender:
    argv = [str(part) for part in command]
    return lambda: asyncio.to_thread(subprocess.run, argv, check=True, capture_output=True)


def ours(sandbox: BubblewrapSandbox | DockerSandbox, **changes: object) -> Contender:
    return lambda: sandbox.run(sandbox_spec("true", **changes), asyncio.Event())


async def bubblewrap() -> None:
    python = find_interpreter(None).supervisor_executable
    repo = tar_of({f"repo/dir{n % 10}/file{n}.py": f"x = {n}\n" * 50 for n in range(100)})
    found = await measured(
        {
            "bare bwrap, true": program(find_bwrap(None), *BARE, *ROOT, "true"),
            "bare bwrap, python -I -S": program(find_bwrap(None), *BARE, *ROOT, python, "-I", "-S", "-c", ""),
            "sandbox, true": ours(BubblewrapSandbox()),
            "sandbox started by bwrap, true": ours(BubblewrapSandbox(fork_server=False)),
            "sandbox, true, no control groups": ours(BubblewrapSandbox(control_groups=False)),
            "sandbox, repository of 100 files": ours(BubblewrapSandbox(), files=(repo,), repo=True),
        }
    )
    for bare in ("bare bwrap, true", "bare bwrap, python -I -S"):
        print(f"{'to ' + bare:44} {found['sandbox, true'] / found[bare]:.2f}")


class RawEngine:
    """The same flags by plain engine calls of the Docker SDK, and a bare interpreter instead of our first process.

    It makes what any adapter must: image, create, attach, start, wait for its end, remove. Nothing is sent to the
    interpreter, which does nothing; ours takes in a program, starts the command and hands over a result.
    """

    def __init__(self, sandbox: DockerSandbox, *, network_disabled: bool) -> None:
        self._sandbox, self._network_disabled = sandbox, network_disabled
        self._api = APIClient(version="auto")

    async def run(self) -> None:
        api = self._api
        image = image_of(await asyncio.to_thread(api.inspect_image, AGENT_IMAGE))
        python = ("python3", "-I", "-S", "-c", "")
        config = container_config(
            sandbox_spec("true"), python, image, owner="bench", engine_cpus=2, hosts_file=self._sandbox._hosts(),
            proxy_dir=None, runtime=None,
        )  # fmt: skip
        config["NetworkDisabled"] = self._network_disabled
        name = f"ridges-bench-{uuid.uuid4()}"
        await asyncio.to_thread(api.create_container_from_config, config, name)
        streams = await asyncio.to_thread(api.attach_socket, name, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        await asyncio.to_thread(api.start, name)
        await asyncio.to_thread(api.wait, name)
        streams._response.close()
        streams.close()
        await asyncio.to_thread(lambda: api.remove_container(name, force=True, v=True))


class RawCalls:
    """The same by our own client of the engine: what is left is the supervisor's and the adapter's."""

    def __init__(self, sandbox: DockerSandbox) -> None:
        self._sandbox, self._engine = sandbox, sandbox._engine

    async def run(self) -> None:
        image = image_of(await self._engine.image(AGENT_IMAGE))
        python = ("python3", "-I", "-S", "-c", "")
        config = container_config(
            sandbox_spec("true"), python, image, owner="bench", engine_cpus=2, hosts_file=self._sandbox._hosts(),
            proxy_dir=None, runtime=None,
        )  # fmt: skip
        name = f"ridges-bench-{uuid.uuid4()}"
        await self._engine.create(config, name)
        async with self._engine.attached(name):
            await self._engine.start(name)
            await self._engine.ended(name, 10)
        await self._engine.remove(name)


async def docker() -> None:
    sandbox = DockerSandbox(owner="bench", default_image=AGENT_IMAGE)
    run = ("docker", "run", "--rm", "--pull", "never")
    async with contextlib.AsyncExitStack() as resources:
        resources.push_async_callback(sandbox.close)
        await sandbox.check()  # as a manager does: it prepares, too
        place = Path(resources.enter_context(tempfile.TemporaryDirectory())) / "proxy"
        proxy_dir = await resources.enter_async_context(echoing(place))
        internal = msgspec.structs.replace(SMALL, network="internal")
        found = await measured(
            {
                "sandbox": ours(sandbox),
                "sandbox with a proxy, network socket": ours(sandbox, proxy_dir=proxy_dir),
                "sandbox with a proxy, network internal": ours(sandbox, proxy_dir=proxy_dir, limits=internal),
                "raw engine calls, same flags": RawEngine(sandbox, network_disabled=True).run,
                "the same by our own client": RawCalls(sandbox).run,
                "raw engine calls, the engine's network": RawEngine(sandbox, network_disabled=False).run,
                "docker run --rm, default bridge": program(*run, AGENT_IMAGE, "true"),
                "docker run --rm, no network": program(*run, "--network", "none", AGENT_IMAGE, "true"),
            }
        )
        for ratio, to in (
            ("to raw calls, same flags", "raw engine calls, same flags"),
            ("to raw calls by our own client", "the same by our own client"),
            ("to raw calls, the engine's network", "raw engine calls, the engine's network"),
            ("to docker run on the bridge", "docker run --rm, default bridge"),
        ):
            print(f"{ratio:44} {found['sandbox'] / found[to]:.2f}")
        socket, relayed = (found[f"sandbox with a proxy, network {mode}"] for mode in ("socket", "internal"))
        print(f"{'network internal to socket':44} {relayed / socket:.2f}")
        began = time.perf_counter()
        await asyncio.gather(*(ours(sandbox)() for _ in range(20)))
        print(f"20 sandboxes at once{'':25}{20 / (time.perf_counter() - began):5.1f} a second")


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["docker", "bubblewrap"]
    for name in chosen:
        asyncio.run({"docker": docker, "bubblewrap": bubblewrap}[name]())
