"""Verify the log, the blobs it names and its archive."""

import asyncio
from collections.abc import Callable, Iterable

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
        findings += asyncio.run(_damaged(check.blobs, blobs, report, _promised))
        aids = {digest: at for digest, at in check.call_contents.items() if digest not in check.blobs}
        findings += asyncio.run(_damaged(aids, blobs, report, _aid))
    wrong = sum(finding.severity == "error" for finding in findings) + check.dropped
    warnings = len(findings) + check.dropped - wrong
    looked_at = (
        ""
        if proof is None
        else f", {len(check.blobs.keys() | check.call_contents.keys()):,} blobs, {proof.count:,} archived events"
    )
    return PassResult(
        what="verify",
        ok=not wrong,
        summary=f"{check.position:,} events{looked_at}: {wrong:,} errors, {warnings:,} warnings",
        events=check.position,
        seconds=round(pace.seconds, 3),
        findings=tuple(findings),
    )


def _promised(position: int, error: BlobMissing) -> Finding:
    return Finding(kind="blob", severity="error", detail=f"the event names it, but: {error}", position=position)


def _aid(position: int, error: BlobMissing) -> Finding:
    """Contents are stored behind the call (gateway): a crash in between loses some, and no amount depends on them."""
    detail = f"what a model call sent or got is not kept (was the gateway killed just then?): {error}"
    return Finding(kind="blob", severity="warning", detail=detail, position=position)


async def _damaged(
    digests: dict[str, int], blobs: BlobStore, report: Report, found_wrong: Callable[[int, BlobMissing], Finding]
) -> list[Finding]:
    """Blobs that are missing or damaged, by the event that names them first."""
    pace = Pace("verify", "reading the blobs", len(digests), report)
    places = asyncio.Semaphore(BLOBS_AT_ONCE)

    async def check(digest: str, position: int) -> Finding | None:
        async with places:
            try:
                await blobs.get(digest)
            except BlobMissing as error:
                return found_wrong(position, error)
            finally:
                pace.add(1)
        return None

    found = []
    items = list(digests.items())
    for start in range(0, len(items), 1_000):
        found += await asyncio.gather(*(check(*item) for item in items[start : start + 1_000]))
    return [finding for finding in found if finding is not None]
