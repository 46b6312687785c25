"""Requests: what is accepted, what is refused and why, and that asking twice is asking once."""

import asyncio

import msgspec
import pytest
from unit.ledger.samples import AGENT, OTHER_RUN, RUN, SetClock

from ridges.chassis.ports import EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef, digest_of
from ridges.contracts.limits import RunLimits
from ridges.contracts.requests import AGENT_MAX_BYTES, CancelRun, RequestedLimits, RequestedSandbox, RequestRun
from ridges.ledger.errors import RequestRefused, UnknownRun

SOURCE = AGENT.decode()


@pytest.fixture
async def ledger(wired):
    await wired.add(wired.author.published("fix-a"))
    return wired


def request(**fields):
    return RequestRun(**({"problem": "fix-a", "agent_source": SOURCE} | fields))


async def stored(ledger, run_id):
    return [recorded.event for recorded in await ledger.store.read_run(run_id)]


async def refusal(ledger, **fields):
    before = await ledger.store.last_position()
    with pytest.raises(RequestRefused) as refused:
        await ledger.requests.request_run(request(**fields))
    assert await ledger.store.last_position() == before, "nothing was appended"
    return refused.value.status, refused.value.code, refused.value.reason


async def test_a_good_request_becomes_run_requested_with_all_a_manager_needs(ledger):
    accepted = await ledger.requests.request_run(
        request(model="m", sandbox="bubblewrap", batch_id="b", requested_by="me", agent_name="mine.py")
    )
    (event,) = await stored(ledger, accepted.run_id)
    published = ledger.queries.problem("fix-a")
    assert isinstance(event, ev.RunRequested)
    assert (event.statement, event.workspace, event.problem_digest) == (
        published.statement,
        published.workspace,
        published.problem_digest,
    )
    assert await ledger.blobs.get(event.agent.digest) == AGENT
    assert (event.model, event.sandbox, event.batch_id, event.requested_by, event.agent_name) == (
        "m",
        "bubblewrap",
        "b",
        "me",
        "mine.py",
    )
    assert event.limits == RunLimits()


async def test_limits_come_from_the_request_then_the_problem_then_the_defaults(ledger):
    await ledger.add(ledger.author.published("fix-b", agent_timeout_s=77, evaluation_timeout_s=88))
    accepted = await ledger.requests.request_run(
        request(problem="fix-b", limits=RequestedLimits(max_cost_usd="0.000000001", max_requests=0, agent_timeout_s=5))
    )
    (event,) = await stored(ledger, accepted.run_id)
    assert (event.limits.model.max_cost_nano_usd, event.limits.model.max_requests) == (1, 0)
    assert (event.limits.agent_timeout_s, event.limits.evaluation_timeout_s) == (5, 88)
    assert event.limits.model.max_tokens == RunLimits().model.max_tokens


async def test_a_budget_of_zero_is_a_limit_like_any_other(ledger):
    accepted = await ledger.requests.request_run(request(limits=RequestedLimits(max_cost_usd="0")))
    (event,) = await stored(ledger, accepted.run_id)
    assert event.limits.model.max_cost_nano_usd == 0


async def test_an_uploaded_agent_is_the_same_as_one_in_the_request(ledger):
    ref = await ledger.blobs.put(AGENT, "application/octet-stream")
    accepted = await ledger.requests.request_run(request(agent_source=None, agent=ref))
    (event,) = await stored(ledger, accepted.run_id)
    assert event.agent.digest == digest_of(AGENT)


REFUSED = {
    "unknown problem": ({"problem": "nope"}, 404, 2060, "no problem 'nope' is published"),
    "problem id that is no token of a subject": ({"problem": "*.>"}, 404, 2060, "no problem"),
    "no agent": ({"agent_source": None}, 422, None, "give exactly one of agent_source"),
    "syntax error": ({"agent_source": "def agent_main(:"}, 422, 1000, "line 1"),
    "no agent_main": ({"agent_source": "x = 1"}, 422, 1000, "no top-level agent_main"),
    "lone surrogate": ({"agent_source": "x = '\ud800'"}, 422, 1000, "not UTF-8"),
    "too large": ({"agent_source": SOURCE + "#" * AGENT_MAX_BYTES}, 413, 1000, "at most 2,097,152"),
    "too large in bytes": ({"agent_source": SOURCE + "#" + "ü" * (AGENT_MAX_BYTES // 2)}, 413, 1000, "2 MiB"),
    "run_id that is no UUID": ({"run_id": "run-1"}, 422, None, "not a UUID"),
    "memory of a galaxy": (
        {"limits": RequestedLimits(sandbox=RequestedSandbox(memory_bytes=1 << 50))},
        422,
        None,
        "memory_bytes",
    ),
    "a million processes": ({"limits": RequestedLimits(sandbox=RequestedSandbox(pids=10**6))}, 422, None, "pids"),
    "all the money": ({"limits": RequestedLimits(max_cost_usd="9999999")}, 422, None, "max_cost_usd"),
}


@pytest.mark.parametrize(("fields", "status", "code", "told"), REFUSED.values(), ids=REFUSED)
async def test_a_bad_request_is_refused_with_its_reason(ledger, fields, status, code, told):
    refused_status, refused_code, reason = await refusal(ledger, **fields)
    assert (refused_status, refused_code) == (status, code)
    assert told in reason


async def test_an_agent_of_exactly_two_mebibytes_is_accepted(ledger):
    source = SOURCE + "#" * (AGENT_MAX_BYTES - len(SOURCE))
    assert (await ledger.requests.request_run(request(agent_source=source))).position


async def test_an_upload_that_is_not_there_or_lies_about_its_size_is_refused(ledger):
    missing = BlobRef(digest=digest_of(b"gone"), size=4, media_type="text/x-python")
    assert (await refusal(ledger, agent_source=None, agent=missing))[0] == 422
    large = await ledger.blobs.put(AGENT + b"#" * AGENT_MAX_BYTES, "text/x-python")
    claimed = msgspec.structs.replace(large, size=10)
    assert (await refusal(ledger, agent_source=None, agent=large))[0] == 413
    assert (await refusal(ledger, agent_source=None, agent=claimed))[0] == 413
    binary = await ledger.blobs.put(b"\x7fELF", "text/x-python")
    assert (await refusal(ledger, agent_source=None, agent=binary))[0] == 422


@pytest.mark.parametrize(
    "twice",
    [({"run_id": RUN}, None), ({"run_id": RUN.upper()}, None), ({}, "key-1"), ({"run_id": RUN}, "key-1")],
    ids=["run_id", "run_id in capitals", "key", "both"],
)
async def test_the_same_request_again_is_the_same_run(ledger, twice):
    fields, key = twice
    first = await ledger.requests.request_run(request(**fields), idempotency_key=key)
    second = await ledger.requests.request_run(request(**fields), idempotency_key=key)
    assert first == second
    assert len(await stored(ledger, first.run_id)) == 1


async def test_many_at_once_with_one_key_are_one_run(ledger):
    accepted = await asyncio.gather(
        *(ledger.requests.request_run(request(), idempotency_key="together") for _ in range(8))
    )
    assert len({(one.run_id, one.position) for one in accepted}) == 1
    assert len(await stored(ledger, accepted[0].run_id)) == 1


async def test_without_id_and_key_every_request_is_a_new_run(ledger):
    first, second = [await ledger.requests.request_run(request()) for _ in range(2)]
    assert first.run_id != second.run_id


async def test_the_same_id_for_something_else_is_a_conflict_that_names_the_difference(ledger):
    await ledger.requests.request_run(request(run_id=RUN))
    status, _, reason = await refusal(ledger, run_id=RUN, agent_source=SOURCE + "# new", model="other")
    assert status == 409
    assert "another agent, model" in reason
    status, _, reason = await refusal(ledger, run_id=RUN, limits=RequestedLimits(max_cost_usd="3.00"))
    assert (status, "limits" in reason) == (409, True)


DIFFERENT = {
    "problem": ("problem_id", "fix-b"),
    "agent_source": ("agent", SOURCE + "# new"),
    "agent_name": ("agent_name", "other.py"),
    "model": ("model", "other"),
    "image": ("image", "other"),
    "sandbox": ("sandbox", "docker"),
    "batch_id": ("batch_id", "other"),
    "requested_by": ("requested_by", "other"),
    "priority": ("priority", 1),
    "limits": ("limits", RequestedLimits(max_requests=7)),
}


@pytest.mark.parametrize("field", DIFFERENT)
async def test_a_key_that_is_used_again_for_something_else_is_a_conflict(ledger, field):
    await ledger.add(ledger.author.published("fix-b"))
    name, value = DIFFERENT[field]
    first = await ledger.requests.request_run(request(), idempotency_key="k")
    with pytest.raises(RequestRefused, match=f"another {name};") as refused:
        await ledger.requests.request_run(request(**{field: value}), idempotency_key="k")
    assert refused.value.status == 409
    assert await ledger.requests.request_run(request(), idempotency_key="k") == first


def test_every_field_of_a_request_is_one_that_makes_it_another():
    """But the run's id, which is what the key stands for; an uploaded agent is compared as its source is."""
    assert DIFFERENT.keys() == set(RequestRun.__struct_fields__) - {"run_id", "agent"}


async def test_a_retry_is_the_same_run_also_when_the_problem_changed_since(ledger):
    first = await ledger.requests.request_run(request(run_id=RUN))
    await ledger.add(ledger.author.published("fix-a", problem_digest="sha256:" + "b" * 64, agent_timeout_s=9))
    assert await ledger.requests.request_run(request(run_id=RUN)) == first


async def test_a_problem_that_the_tables_do_not_have_yet_is_found_in_the_log(ledger):
    await ledger.append(ledger.author.published("fresh"))
    assert (await ledger.requests.request_run(request(problem="fresh"))).position


async def test_a_lost_acknowledgement_does_not_make_a_second_run(ledger):
    class Deaf:
        """Appends, then says that it does not know."""

        def __init__(self, store):
            self.store = store

        def __getattr__(self, name):
            return getattr(self.store, name)

        async def append(self, *args):
            await self.store.append(*args)
            raise EventStoreUnavailable("no answer")

    ledger.requests._store = Deaf(ledger.store)
    with pytest.raises(EventStoreUnavailable):
        await ledger.requests.request_run(request(), idempotency_key="k")
    ledger.requests._store = ledger.store
    ledger.requests._clock = SetClock()
    accepted = await ledger.requests.request_run(request(), idempotency_key="k")
    assert len(await stored(ledger, accepted.run_id)) == 1


async def test_cancel_ends_a_run_once(ledger):
    await ledger.requests.request_run(request(run_id=RUN))
    first = await ledger.requests.cancel_run(CancelRun(run_id=RUN, reason="enough", cancelled_by="me"))
    second = await ledger.requests.cancel_run(CancelRun(run_id=RUN, reason="again"))
    assert first == second
    events = await stored(ledger, RUN)
    assert [type(event).__name__ for event in events] == ["RunRequested", "RunCancelled"]
    assert (events[1].reason, events[1].cancelled_by) == ("enough", "me")


async def test_cancel_of_a_finished_run_changes_nothing(ledger):
    a = ledger.author
    await ledger.append(a.requested(), a.started(), a.patched(), a.tested())
    before = await ledger.store.last_position()
    await ledger.requests.cancel_run(CancelRun(run_id=RUN))
    assert await ledger.store.last_position() == before


async def test_cancel_of_no_run(ledger):
    with pytest.raises(UnknownRun):
        await ledger.requests.cancel_run(CancelRun(run_id=OTHER_RUN))
    with pytest.raises(RequestRefused):
        await ledger.requests.cancel_run(CancelRun(run_id="*"))
