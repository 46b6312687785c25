"""Editions of problems by digest: a run is judged by the one it was asked for, whatever the folder holds today."""

import asyncio

from ridges.chassis.ports import BlobStore
from ridges.evaluator.domain import Problem
from ridges.evaluator.errors import ProblemBroken
from ridges.evaluator.problems.formats import parse_problem
from ridges.evaluator.problems.tree import TreeRefused, unpack

KEPT = 8


class Editions:
    """The problem's digest is the digest of its edition's blob, so that every evaluator can judge every edition."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._kept: dict[tuple[str, str], Problem] = {}

    async def get(self, problem_id: str, digest: str) -> Problem:
        """The problem as it was published under the digest.

        Raises:
            BlobMissing: the blob store does not have that edition.
            ProblemBroken: it is there, but this release cannot use it.
        """
        key = (problem_id, digest)
        problem = self._kept.pop(key, None)
        if problem is None:
            content = await self._blobs.get(digest)
            problem = await asyncio.to_thread(_parse, problem_id, content)
        self._kept[key] = problem
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return problem


def _parse(problem_id: str, content: bytes) -> Problem:
    try:
        tree = unpack(content)
    except TreeRefused as error:
        raise ProblemBroken(problem_id, (f"the stored edition is damaged: {error}",)) from error
    return parse_problem(problem_id, tree)
