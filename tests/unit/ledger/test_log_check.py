"""`ridges ledger verify` names what is wrong with the log, and finds nothing wrong with a good one."""

import asyncio

import msgspec
import pytest
from unit.ledger.samples import Author, recorded
from unit.ledger.test_rebuild import a_whole_run

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.limits import SandboxLimits
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.ledger.passes.log_source import raw_of
from ridges.ledger.passes.verify import verify

FREE = TokenPrice(input=2_000_000, output=0, cached_input=0, reasoning=0)


def asked_for_evaluation(author):
    return author.event(
        ev.EvaluationRequested,
        evaluation_id="e1",
        attempt=1,
        bundle=ref_to(b"tar", "application/x-tar"),
        command=("python",),
        outputs=(),
        limits=SandboxLimits(),
        timeout_s=1,
    )


def a_good_run(author):
    first, last = a_whole_run(author)[:6], a_whole_run(author)[6:]
    attempt = msgspec.structs.replace(author.attempt(), price=FREE)
    first[3] = msgspec.structs.replace(first[3], attempts=(attempt,))
    return [*first, asked_for_evaluation(author), *last]


def raw_log(events):
    return [raw_of(each) for each in recorded(*events)]


def found(chunk, blobs=None, grace_s=0.0):
    result = verify([chunk], total=len(chunk), grace_s=grace_s, blobs=blobs, report=lambda _: None)
    assert result.ok == (not any(finding.severity == "error" for finding in result.findings))
    return [(finding.kind, finding.position) for finding in result.findings], result


def test_a_good_log_has_no_findings():
    kinds, result = found(raw_log(a_good_run(Author())))
    assert (kinds, result.ok, result.events) == ([], True, 9)
    assert "0 errors, 0 warnings" in result.summary


def test_a_gap_is_named():
    log = raw_log(a_good_run(Author()))
    kinds, result = found([*log[:2], *log[4:]])
    assert ("gap", 5) in kinds
    assert "positions 3 to 4 are missing" in result.findings[0].detail


@pytest.mark.parametrize(
    ("place", "change", "kind", "told"),
    [
        (3, lambda raw: (*raw[:3], b'{"type":"Unheard"}'), "unreadable", "Unheard"),
        (3, lambda raw: (*raw[:3], raw[3][:-9]), "unreadable", "cannot be read"),
        (3, lambda raw: (raw[0], b"ev.other.InferenceMade", *raw[2:]), "subject", "ev.other"),
        (3, lambda raw: (*raw[:2], b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n", raw[3]), "event id", "id x"),
        (3, lambda raw: (*raw[:3], raw[3].replace(b'"cost_nano_usd":10', b'"cost_nano_usd":11', 1)), "amount", "11"),
    ],
    ids=["type", "cut", "subject", "id", "amount"],
)
def test_a_bad_event_is_named(place, change, kind, told):
    log = raw_log(a_good_run(Author()))
    log[place] = change(log[place])
    kinds, result = found(log)
    assert (kind, place + 1) in kinds
    assert told in result.findings[0].detail


@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        ([1, 0, 2, 3, 4, 5, 6, 7, 8], 1),
        ([0, 1, 3, 2, 4, 5, 6, 7, 8], 3),
        ([0, 5, 1, 2, 3, 4, 6, 7, 8], 2),
        ([0, 1, 2, 3, 4, 5, 7, 6, 8], 7),
    ],
    ids=["started before requested", "outcome before reservation", "patch before start", "verdict before evaluation"],
)
def test_events_of_a_run_out_of_order_are_named(order, wrong):
    good = a_good_run(Author())
    kinds, _ = found(raw_log([good[place] for place in order]))
    assert ("order", wrong) in kinds


def test_the_release_of_a_reservation_that_was_never_stored_is_no_finding():
    """The gateway cannot know: the append was not answered. A call that did cost something must have been reserved."""
    author = Author()
    good = a_good_run(author)
    fields = {"call_id": "lost", "kind": "chat", "model": "m", "usage": TokenUsage(), "status": 503, "detail": "away"}
    release = author.event(ev.InferenceFailed, attempts=(), cost_nano_usd=0, **fields)
    assert found(raw_log([*good[:4], release, *good[4:]]))[0] == []
    charged = msgspec.structs.replace(release, cost_nano_usd=1)
    assert ("order", 5) in found(raw_log([*good[:4], charged, *good[4:]]))[0]


def test_an_event_id_twice_is_named():
    good = a_good_run(Author())
    twice = msgspec.structs.replace(good[4], id=good[2].id)
    kinds, _ = found(raw_log([*good[:4], twice, *good[5:]]))
    assert ("event id", 5) in kinds


def test_a_reservation_that_nobody_closed_is_named_after_the_grace_time():
    author = Author()
    log = a_good_run(author)[:8]
    author.clock.move(seconds=100)
    kinds, result = found(raw_log([*log, author.published()]), grace_s=60)
    assert (kinds, result.ok) == ([("open reservation", 5)], True)
    assert found(raw_log([*log, author.published()]), grace_s=600)[0] == []


def test_a_missing_and_a_damaged_blob_are_named_by_the_first_event_that_names_them():
    author, blobs = Author(), MemoryBlobStore()

    async def store():
        for content in (b"do it", b"tar", b"def agent_main(input):\n    return ''\n", b"log\n"):
            await blobs.put(content, "text/plain")

    asyncio.run(store())
    log = raw_log(a_good_run(author))
    assert found(log, blobs)[0] == [("blob", 6)]  # the patch
    asyncio.run(blobs.put(b"diff\n", "text/x-diff"))
    assert found(log, blobs)[0] == []
    blobs.contents[ref_to(b"log\n", "text/plain").digest] = b"loh\n"
    kinds, result = found(log, blobs)
    assert kinds == [("blob", 6)]
    assert "damaged" in result.findings[0].detail
    assert result.findings[0].detail.count("sha256:") == 1


def test_missing_contents_of_a_model_call_are_a_warning_unless_something_else_names_them():
    author, blobs = Author(), MemoryBlobStore()

    async def store():
        for content in (b"do it", b"tar", b"def agent_main(input):\n    return ''\n", b"log\n", b"diff\n"):
            await blobs.put(content, "text/plain")

    asyncio.run(store())
    good = a_good_run(author)
    lost = msgspec.structs.replace(good[3], request=ref_to(b"lost", "application/json"))
    kinds, result = found(raw_log([*good[:3], lost, *good[4:]]), blobs)
    assert (kinds, result.ok) == ([("blob", 4)], True)
    assert "0 errors, 1 warnings" in result.summary
    blobs.contents.pop(ref_to(b"diff\n", "text/x-diff").digest)
    shared = msgspec.structs.replace(good[3], request=ref_to(b"diff\n", "text/x-diff"))
    kinds, result = found(raw_log([*good[:3], shared, *good[4:]]), blobs)
    assert (len(kinds), result.ok) == (1, False)
