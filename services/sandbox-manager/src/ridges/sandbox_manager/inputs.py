"""What agents get, kept for the next run: many runs have the same problem, or the same agent."""

import asyncio

from ridges.chassis.ports import BlobStore
from ridges.contracts.blobs import BlobRef
from ridges.contracts.events import RunRequested
from ridges.sandbox_manager.agent_sandbox import AgentInputs, below_repo

MOST_BYTES = 16 * 1024 * 1024
"""Of all that is kept."""
LARGEST_BYTES = 4 * 1024 * 1024
"""Larger contents are read for each run."""


class Inputs:
    """Contents are found by their digests, so that what is kept is never out of date."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._contents: dict[str, bytes] = {}
        self._repos: dict[str, bytes] = {}
        self._bytes = 0

    async def of(self, requested: RunRequested) -> AgentInputs:
        """The inputs of a run's agent.

        Raises:
            BlobMissing: the blob store does not have one of them.
            BrokenWorkspace: the problem is broken, not the agent.
        """
        agent, statement, repo = await asyncio.gather(
            self._content(requested.agent), self._content(requested.statement), self._repo(requested.workspace)
        )
        return AgentInputs(agent=agent, statement=statement, repo=repo)

    async def _content(self, ref: BlobRef) -> bytes:
        found = self._contents.get(ref.digest)
        if found is None:
            found = await self._blobs.get(ref.digest)
            self._keep(self._contents, ref.digest, found)
        return found

    async def _repo(self, workspace: BlobRef) -> bytes:
        found = self._repos.get(workspace.digest)
        if found is None:
            found = await asyncio.to_thread(below_repo, await self._blobs.get(workspace.digest))
            self._keep(self._repos, workspace.digest, found)
        return found

    def _keep(self, kept: dict[str, bytes], digest: str, content: bytes) -> None:
        """All is forgotten when it gets too much: what is still in use comes back with the next run."""
        if len(content) > LARGEST_BYTES or digest in kept:
            return
        if self._bytes + len(content) > MOST_BYTES:
            self._contents.clear()
            self._repos.clear()
            self._bytes = 0
        kept[digest] = content
        self._bytes += len(content)
