"""Which promises a sandbox technology keeps on this very machine: each one is put to the test."""

import asyncio
import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.errors import SandboxManagerError
from ridges.sandbox_manager.ports import PROXY_URL, Sandbox, SandboxExit, SandboxSpec
from ridges.sandbox_manager.self_test import CLAIMS, RELAY_CLAIMS

_MARK = "RIDGES_GUARANTEE"
_LIMITS = SandboxLimits(memory_bytes=192 * MIB, disk_bytes=16 * MIB, pids=40)
_GONE_S = 2.0

_LOOK = """
import json, os, socket
reached = []
for address in os.environ["HOST_ADDRESSES"].split():
    for bound in (b"", b"eth0"):
        try:
            with socket.socket() as sock:
                sock.settimeout(0.3)
                if bound:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bound)
                sock.connect((address, int(os.environ["HOST_PORT"])))
                reached.append(address)
        except OSError:
            pass
claims["services of the host are out of reach"] = not reached
try:
    with open("/sandbox/fill", "wb", buffering=0) as file:
        written = sum(file.write(bytes(1 << 20)) for _ in range(64))
except OSError:
    written = os.path.getsize("/sandbox/fill")
claims["its disk is limited"] = written <= 17 << 20
children = []
try:
    while len(children) < 200:
        pid = os.fork()
        if pid == 0:
            import time
            time.sleep(20)
            os._exit(0)
        children.append(pid)
except OSError:
    pass
claims["the number of its processes is limited"] = len(children) < 60
print(json.dumps(claims))
"""
_EAT = "hoard = []\nwhile True: hoard.append(bytearray(b'x' * (8 << 20)))"
_SLEEP = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\ntime.sleep(60)"


class Guarantee(msgspec.Struct, frozen=True, kw_only=True):
    """One promise."""

    promise: str
    holds: bool


async def guarantees(sandbox: Sandbox, proxy_dir: Path | None = None) -> tuple[Guarantee, ...]:
    """Puts every promise to the test, in three small sandboxes.

    Args:
        sandbox: the technology.
        proxy_dir: one that is ``echoing``, for the network mode ``internal``; null = sandboxes without any way out.

    Raises:
        SandboxManagerError: a sandbox could not even be run.
    """
    mark = str(uuid.uuid4())
    found: dict[str, bool] = {}
    with _listening() as port:
        env = {"HOST_PORT": str(port), "HOST_ADDRESSES": _own_addresses()}
        look = CLAIMS + (RELAY_CLAIMS if proxy_dir else "") + _LOOK
        looked = await _run(sandbox, look, mark, env, proxy_dir=proxy_dir)
    found |= _claimed(looked)
    eaten = await _run(sandbox, _EAT, mark, {}, proxy_dir=proxy_dir)
    over = eaten.exit.out_of_memory or b"MemoryError" in eaten.log
    found["its memory is limited"] = over and (eaten.exit.peak_memory_bytes or 0) < 2 * _LIMITS.memory_bytes
    began = time.monotonic()
    slept = await _run(sandbox, _SLEEP, mark, {}, timeout_s=1, proxy_dir=proxy_dir)
    found["it ends when its time is over"] = slept.exit.timed_out and time.monotonic() - began < 10
    found["a control group counts its memory, processes and CPU time"] = looked.exit.pids_peak is not None
    found["no process of it is left"] = await _nothing_left(mark)
    return tuple(Guarantee(promise=promise, holds=holds) for promise, holds in found.items())


async def _run(
    sandbox: Sandbox,
    script: str,
    mark: str,
    env: Mapping[str, str],
    *,
    timeout_s: float = 20,
    proxy_dir: Path | None = None,
) -> SandboxExit:
    spec = SandboxSpec(
        sandbox_id=f"check-{uuid.uuid4()}",
        run_id="self-check",
        kind="agent" if proxy_dir else "evaluation",
        files=(),
        command=("python3", "-I", "-S", "-c", script),
        env={_MARK: mark, **env} | ({"PROXY": PROXY_URL} if proxy_dir else {}),
        limits=msgspec.structs.replace(_LIMITS, network="internal" if proxy_dir else None),
        timeout_s=timeout_s,
        proxy_dir=proxy_dir,
        deadline=datetime.now(UTC) + timedelta(minutes=5),
    )
    return await sandbox.run(spec, asyncio.Event())


def _claimed(looked: SandboxExit) -> dict[str, bool]:
    try:
        claims = json.loads(looked.log.decode().splitlines()[-1])
        return {str(claim): holds is True for claim, holds in claims.items()}
    except (ValueError, IndexError, AttributeError) as error:
        raise SandboxManagerError(f"the self-check said {looked.log[-300:]!r} and ended with {looked.exit}") from error


@contextlib.contextmanager
def _listening() -> Iterator[int]:
    """A service of this host, on every address."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104 - that is what must not be reached
        yield int(server.getsockname()[1])


def _own_addresses() -> str:
    own = {"127.0.0.1", "172.17.0.1"}
    with contextlib.suppress(OSError):
        own |= {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.254", 9))  # sends nothing; tells the address that it would be sent from
        own.add(sock.getsockname()[0])
    return " ".join(sorted(own))


async def _nothing_left(mark: str) -> bool:
    give_up_at = time.monotonic() + _GONE_S
    while _processes_with(mark):
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(0.05)
    return True


def _processes_with(mark: str) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - /proc
        with contextlib.suppress(OSError):
            if f"{_MARK}={mark}".encode() in Path("/proc", name, "environ").read_bytes():
                found.append(int(name))
    return found
