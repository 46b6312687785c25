"""A sandbox tells about itself: what every isolating adapter must hold before it may run anything."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

from ridges.contracts.events import SandboxFile
from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.ports import Sandbox, SandboxExit, SandboxSpec

_TIMEOUT_S = 20

CLAIMS = """
import ctypes, os, shutil
PR_GET_NO_NEW_PRIVS = 39
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
claims = {
    "it runs as uid 1000": os.getuid() == 1000,
    "it has no capabilities": int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0,
    "it cannot gain privileges": ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
    "its system calls are filtered": status["Seccomp"].strip() == "2",
    "it sees no processes but its own": sum(name.isdigit() for name in os.listdir("/proc")) <= 3,
    "it has no network but the loopback": interfaces == ["lo"],
    "its root is read-only": not os.access("/", os.W_OK) and not os.access("/usr", os.W_OK),
    "its workspace is writable": os.access("/sandbox", os.W_OK),
    "git, bash and python3 are there": all(map(shutil.which, ("git", "bash", "python3"))),
}
"""
"""Python that looks at the sandbox it runs in: ``claims`` holds what must be true."""

_VERDICT = """
broken = [claim for claim, holds in claims.items() if not holds]
print("; ".join(broken))
raise SystemExit(bool(broken))
"""


async def passes_self_test(
    sandbox: Sandbox,
    remedy: str,
    *,
    errand: str = "",
    files: tuple[bytes, ...] = (),
    outputs: tuple[SandboxFile, ...] = (),
    runtime: str | None = None,
) -> SandboxExit:
    """What one small sandbox left.

    Args:
        sandbox: the technology.
        remedy: what to do when it does not start or is not tight.
        errand: Python that it does besides, before it looks at itself.
        files: for the errand, as in ``SandboxSpec``.
        outputs: of the errand, likewise.
        runtime: as in ``SandboxLimits``.

    Raises:
        SandboxUnavailable: it does not start, or one of the claims does not hold.
    """
    spec = SandboxSpec(
        sandbox_id=f"check-{uuid.uuid4()}",
        run_id="self-test",
        kind="evaluation",
        files=files,
        command=("python3", "-I", "-S", "-c", errand + CLAIMS + _VERDICT),
        outputs=outputs,
        env={},
        limits=SandboxLimits(memory_bytes=256 * MIB, disk_bytes=16 * MIB, runtime=runtime),
        timeout_s=_TIMEOUT_S,
        deadline=datetime.now(UTC) + timedelta(seconds=10 * _TIMEOUT_S),
    )
    technology = f"{sandbox.name} (runtime {runtime})" if runtime else sandbox.name
    try:
        ended = await sandbox.run(spec, asyncio.Event())
    except SandboxFailed as error:
        raise SandboxUnavailable(f"{technology}: {error.reason}", remedy) from error
    if ended.exit.exit_code != 0:
        said = ended.log.decode().strip()[-500:] or f"exit {ended.exit}"
        raise SandboxUnavailable(
            f"{technology} sandboxes are not as tight as they must be: not true that {said}", remedy
        )
    return ended
