"""Examines agent files in a child: parsing hostile source may take for ever, eat memory or crash the parser."""

import asyncio
import sys

from ridges.ledger import agent_source

CONCURRENCY = 2
TIMEOUT_S = 30.0
CANNOT_PARSE = (
    f"the agent file cannot be parsed within {agent_source.CPU_S} s and {agent_source.MEMORY_BYTES >> 30} GiB; "
    "make it smaller or less deeply nested"
)


class AgentExaminer:
    """``await examiner(content)`` gives what is wrong with an agent file, or None."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(CONCURRENCY)

    async def __call__(self, content: bytes) -> str | None:
        async with self._free:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", "-B", "-W", "ignore", agent_source.__file__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    told, _ = await child.communicate(content)
            except TimeoutError:
                return CANNOT_PARSE
            finally:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
            return CANNOT_PARSE if child.returncode else told.decode("utf-8", "replace") or None
