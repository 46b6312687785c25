"""Verify the log, the blobs it names and its archive."""

import asyncio
from collections.abc import Iterable

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.chassis.ports import BlobMissing, BlobStore, NamedBlobStore
from ridges.contracts.views import Finding, PassResult
from ridges.ledger.passes.check import LogCheck
from ridges.ledger.passes.reporting import Pace, Report
from ridges.ledger.passes.sealing import ArchiveProof

BLOBS_AT_ONCE = 8


def verify(
    chunks: Iterable[list[RawEvent]], *, total: int, grace_s: float, blobs: NamedBlobStore | None, report: Report
) -> PassResult:
    """What is wrong, at most 1,000 findings. Without a blob store, neither blobs nor the archive are looked at."""
    pace = Pace("verify", "reading the log", total, report)
    check = LogCheck()
    proof = None if blobs is None else ArchiveProof(blobs)
    check.read(chunks if proof is None else proof.watch(chunks), pace)
    check.close(grace_s)
    findings = list(check.findings)
    if blobs is not None and proof is not None:
        findings += proof.findings
        findings += asyncio.run(_damaged(check.blobs, blobs, report))
    wrong = sum(finding.severity == "error" for finding in findings) + check.dropped
    warnings = len(findings) + check.dropped - wrong
    looked_at = "" if proof is None else f", {len(check.blobs):,} blobs, {proof.count:,} archived events"
    return PassResult(
        what="verify",
        ok=not wrong,
        summary=f"{check.position:,} events{looked_at}: {wrong:,} errors, {warnings:,} warnings",
        events=check.position,
        seconds=round(pace.seconds, 3),
        findings=tuple(findings),
    )


async def _damaged(digests: dict[str, int], blobs: BlobStore, report: Report) -> list[Finding]:
    """Blobs that are missing or damaged, by the event that names them first."""
    pace = Pace("verify", "reading the blobs", len(digests), report)
    places = asyncio.Semaphore(BLOBS_AT_ONCE)

    async def check(digest: str, position: int) -> Finding | None:
        async with places:
            try:
                await blobs.get(digest)
            except BlobMissing as error:
                return Finding(
                    kind="blob", severity="error", detail=f"the event names it, but: {error}", position=position
                )
            finally:
                pace.add(1)
        return None

    found = []
    items = list(digests.items())
    for start in range(0, len(items), 1_000):
        found += await asyncio.gather(*(check(*item) for item in items[start : start + 1_000]))
    return [finding for finding in found if finding is not None]
