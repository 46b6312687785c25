"""Examines agent files in a child: parsing hostile source may take for ever, eat memory or crash the parser."""

import asyncio
import hashlib
import sys

from ridges.ledger import agent_source

CONCURRENCY = 2
REMEMBERED = 1_000
"""Files whose answer is kept: one agent is asked for on many problems, and the child takes some 20 ms."""
TIMEOUT_S = 30.0
CANNOT_PARSE = (
    f"the agent file cannot be parsed within {agent_source.CPU_S} s and {agent_source.MEMORY_BYTES >> 30} GiB; "
    "make it smaller or less deeply nested"
)


class AgentExaminer:
    """``await examiner(content)`` gives what is wrong with an agent file, or None."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(CONCURRENCY)
        self._answers: dict[bytes, str | None] = {}
        """By digest, oldest first. Not ``CANNOT_PARSE``, which may be the machine's fault."""

    async def __call__(self, content: bytes) -> str | None:
        digest = hashlib.sha256(content).digest()
        if digest in self._answers:
            return self._answers[digest]
        answer = await self._ask_a_child(content)
        if answer != CANNOT_PARSE:
            self._answers[digest] = answer
            if len(self._answers) > REMEMBERED:
                del self._answers[next(iter(self._answers))]
        return answer

    async def _ask_a_child(self, content: bytes) -> str | None:
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
