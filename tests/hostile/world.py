"""What hostile programs are let loose on: a service of the host to reach, a gateway to fool, secrets to find."""

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
from aiohttp import web
from conformance.sandbox_suite import REPO
from grading import CREATE, problem_of
from hostile.cases import KEY, PROGRAMS, Case, Ended
from sandboxes import MARK, SMALL, gone, sandbox_spec, tar_of

from ridges.contracts.blobs import BlobRef
from ridges.contracts.events import RunRequested, SandboxFile
from ridges.contracts.limits import RunLimits
from ridges.evaluator.problems.tree import pack
from ridges.sandbox_manager.agent_sandbox import AgentInputs, agent_spec, below_repo
from ridges.sandbox_manager.inside import agent_runner_source
from ridges.sandbox_manager.outcomes import OUTPUT_PATH, outcome_of
from ridges.sandbox_manager.ports import PROXY_URL, Sandbox, SandboxSpec
from ridges.sandbox_manager.proxy import NginxProxies, find_nginx, make_runtime_dir

AT_ONCE = 4
PATIENCE_S = 45.0
"""Beyond a program's own time: a sandbox that takes longer to end has been held up."""
NOWHERE = BlobRef(digest="sha256:" + "0" * 64, size=0, media_type="text/plain")


class Bait:
    """Services of the host that answer to everybody: on every address, TCP and UDP, and by two Unix sockets."""

    def __init__(self, directory: Path) -> None:
        self.visitors: list[object] = []
        self.name, self.path = f"ridges-bait-{uuid4()}", str(directory / "bait.sock")
        tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = tcp.getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", self.port))
        self._listeners = [tcp]
        for name in ("\0" + self.name, self.path):
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(name)
            unix.listen()
            self._listeners.append(unix)
        Path(self.path).chmod(0o777)
        self._udp = udp
        for each in self._listeners:
            threading.Thread(target=self._answer, args=(each,), daemon=True).start()
        threading.Thread(target=self._receive, daemon=True).start()

    def _answer(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, address = listener.accept()
                self.visitors.append(address or listener.getsockname())
                visitor.sendall(b"bait")
                visitor.close()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while (datagram := self._udp.recvfrom(100))[1]:
                self.visitors.append(datagram)

    def env(self) -> dict[str, str]:
        own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
        known = ("127.0.0.1", "127.0.0.2", "0.0.0.0", "172.17.0.1", "255.255.255.255", "224.0.0.1", "::1")
        addresses = " ".join((*own, *known))
        return {
            "BAIT_PORT": str(self.port),
            "BAIT_NAME": self.name,
            "BAIT_PATH": self.path,
            "BAIT_ADDRESSES": addresses,
        }

    def close(self) -> None:
        for each in (*self._listeners, self._udp):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


SNAPSHOTS = {"on_difference": lambda _: None, "difference_every_s": 0.3}
"""Their repository is looked at all the while, whatever they do."""


class World:
    """One for all programs of an adapter."""

    def __init__(self, sandbox: Sandbox, bait: Bait, proxies: NginxProxies, gateway: "Gateway") -> None:
        self.sandbox, self.bait, self.proxies, self.gateway = sandbox, bait, proxies, gateway
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._problem = problem_of(CREATE)

    async def run(self, name: str, case: Case) -> Ended:
        """Let one program loose; when this returns, nothing of it is left."""
        text = (PROGRAMS / f"{name}.py").read_text()
        spec = self._agent(text, case) if case.as_agent else self._program(text, case)
        async with self._slots:
            began = time.monotonic()
            try:
                async with asyncio.timeout(case.timeout_s + PATIENCE_S):
                    if not (case.proxied or case.as_agent):
                        end = await self.sandbox.run(spec, asyncio.Event())
                    else:
                        async with self.proxies.serve(spec.run_id, spec.sandbox_id, 64) as directory:
                            spec = msgspec.structs.replace(spec, proxy_dir=directory)
                            end = await self.sandbox.run(spec, asyncio.Event())
            finally:
                await gone(spec)
        outcome = outcome_of(end, spec.timeout_s)
        calls = [call for call in self.gateway.calls if spec.run_id in call[2]]
        return Ended(spec=spec, end=end, outcome=outcome, took_s=time.monotonic() - began, calls=calls)

    def _program(self, text: str, case: Case) -> SandboxSpec:
        env = self.bait.env() | {"OTHER_RUN": str(uuid4())}
        return sandbox_spec(
            *("python3", "/sandbox/hostile.py"),
            files=(tar_of({"hostile.py": text}), REPO),
            repo=True,
            timeout_s=case.timeout_s,
            outputs=case.outputs | {OUTPUT_PATH: 1 << 20},
            **SNAPSHOTS,
            env=env | ({"SANDBOX_PROXY_URL": PROXY_URL} if case.proxied else {}),
        )

    def _agent(self, text: str, case: Case) -> SandboxSpec:
        requested = RunRequested(
            id=str(uuid4()),
            run_id=str(uuid4()),
            time=datetime.now(UTC),
            problem_id="roman",
            problem_digest=NOWHERE.digest,
            statement=NOWHERE,
            workspace=NOWHERE,
            agent=NOWHERE,
            agent_name="agent.py",
            limits=RunLimits(sandbox=SMALL, agent_timeout_s=int(case.timeout_s)),
        )
        inputs = AgentInputs(
            agent=text.encode(),
            statement=self._problem.statement.encode(),
            repo=below_repo(pack(self._problem.workspace)),
        )
        spec = agent_spec(
            requested, inputs, runner=agent_runner_source(), sandbox_id=str(uuid4()), now=datetime.now(UTC)
        )
        more = tuple(SandboxFile(path=path, max_bytes=size) for path, size in case.outputs.items())
        env = spec.env | {MARK: spec.sandbox_id}
        return msgspec.structs.replace(spec, env=env, outputs=spec.outputs + more, **SNAPSHOTS)


class Gateway:
    """Answers everything, and writes down who asked what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.calls.append((request.method, request.raw_path, request.headers.get("Authorization", "")))
        if b"explode" in await request.content.read():
            request.transport.close()
        return web.json_response({"object": "list"})


@contextlib.asynccontextmanager
async def world(sandbox: Sandbox, directory: Path) -> AsyncIterator[World]:
    gateway = Gateway()
    server = web.ServerRunner(web.Server(gateway), shutdown_timeout=0.1)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    runtime_dir = make_runtime_dir(directory / ("long name " * 8), str(uuid4()))
    proxies = NginxProxies(runtime_dir=runtime_dir, nginx=find_nginx(runtime_dir), gateway_url=url, token_key=KEY)
    bait = Bait(directory)
    try:
        with planted_canaries(directory):
            yield World(sandbox, bait, proxies, gateway)
        left = [path.name for path in runtime_dir.iterdir() if path.is_dir()]
        assert left == [], f"proxies left: {left}"
    finally:
        bait.close()
        await server.cleanup()
        (runtime_dir / "nginx").unlink(missing_ok=True)
        runtime_dir.rmdir()


@contextlib.contextmanager
def planted_canaries(directory: Path) -> Iterator[None]:
    """Secrets where a manager has them: its environment, its files, a temporary directory of its own."""
    canary = f"CANARY-{secrets.token_hex(8)}"
    names = ("RIDGES_RUN_TOKEN_KEY", "OPENROUTER_API_KEY", "AWS_SECRET_ACCESS_KEY", "RIDGES_NATS_PASSWORD")
    before = {name: os.environ.get(name) for name in (*names, "TMPDIR")}
    temporary = directory / "tmp"
    temporary.mkdir()
    (directory / "key").write_text(canary)
    os.environ |= dict.fromkeys(names, canary) | {"TMPDIR": str(temporary)}
    tempfile.tempdir = None
    try:
        yield
        assert list(temporary.iterdir()) == [], "temporary files left"
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None
