"""Batches are asked for at once and shown as one."""

import asyncio

import msgspec
import pytest
from unit.ledger.samples import AGENT, RUN
from unit.ledger.test_http import client_of, problem

from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.faults import Cause

ASKED = {"problem": "fix-a", "agent_source": AGENT.decode()}


@pytest.fixture
async def http(wired):
    await wired.add(wired.author.published("fix-a"))
    async with client_of(wired) as client:
        yield client


async def test_a_batch_is_asked_for_shown_and_safe_to_ask_for_again(wired, http):
    body = {"batch_id": "night / 1", "runs": [ASKED, ASKED, ASKED | {"run_id": RUN}]}
    created = await http.post("/v1/batches", json=body)
    assert created.status_code == 201, created.text
    assert (created.json()["runs"], created.json()["ended"], created.json()["finished_at"]) == (3, 0, None)
    again = await http.post("/v1/batches", json=body)
    assert again.json() == created.json()
    runs = (await http.get("/v1/runs", params={"batch": "night / 1"})).json()["runs"]
    assert RUN in {run["run_id"] for run in runs}
    assert len(runs) == 3


async def test_a_batch_counts_what_its_runs_did(wired, http):
    a, ids = wired.author, [f"{n}0000000-0000-4000-8000-000000000000" for n in range(3)]
    await wired.add(*(a.requested(run_id, batch_id="b") for run_id in ids), a.requested())
    await wired.add(
        a.started(ids[0]), a.made("c", ids[0]), a.patched(ids[0]), a.tested(ids[0]), a.reserved("d", ids[1])
    )
    [batch] = (await http.get("/v1/batches")).json()
    assert (batch["runs"], batch["ended"], batch["resolved"], batch["errors"]) == (3, 1, 1, 0)
    assert (batch["requests"], batch["cost_nano_usd"], batch["reserved_nano_usd"]) == (1, 10, 100)
    by_batch = {row["key"]: row for row in (await http.get("/v1/costs", params={"by": "batch"})).json()["rows"]}
    assert (by_batch["b"]["cost_nano_usd"], by_batch["b"]["reserved_nano_usd"]) == (10, 100)
    problem(await http.get("/v1/batches/none"), 404)


async def test_a_batch_says_whose_runs_ended_without_a_verdict_and_why(wired, http):
    """An agent that makes its runs void is seen beside others that had the same providers."""
    a, ids = wired.author, [f"{n}0000000-0000-4000-8000-000000000000" for n in range(6)]
    honest, dodger = ref_to(b"honest", "text/x-python"), ref_to(b"dodger", "text/x-python")
    for n, run_id in enumerate(ids):
        agent, name = (honest, "honest.py") if n < 2 else (dodger, "dodger.py")
        asked = msgspec.structs.replace(a.requested(run_id, batch_id="b"), agent=agent, agent_name=name)
        await wired.add(asked, a.started(run_id))
        if n in (0, 1, 2):
            await wired.add(a.patched(run_id), a.tested(run_id))
        elif n < 5:
            failed = {"attempt": 1, "cause": Cause.PROVIDER_FAILED, "detail": "down"}
            await wired.add(a.event(ev.AgentFailed, run_id, **failed))
    (batch,) = (await http.get("/v1/batches")).json()
    expected = {"agent": dodger.digest, "agent_name": "dodger.py", "cause": "provider_failed", "fault": "provider"}
    assert batch["void"] == [expected | {"runs": 2, "of": 3}]
    assert (await http.get("/v1/batches/b")).json() == batch


async def test_a_batch_is_cancelled_at_once_and_what_has_ended_stays(wired, http):
    a, ids = wired.author, [f"{n}0000000-0000-4000-8000-000000000000" for n in range(4)]
    await wired.add(*(a.requested(run_id, batch_id="night 1") for run_id in ids[:3]), a.requested(ids[3]))
    await wired.add(a.started(ids[0]), a.patched(ids[0]), a.tested(ids[0]))
    for _ in range(2):
        answer = await http.post("/v1/batches/night%201/cancel", json={"reason": "too dear"})
        assert answer.status_code == 202, answer.text
        assert (answer.json()["runs"], answer.json()["ended"], answer.json()["resolved"]) == (3, 3, 1)
    runs = [(await http.get(f"/v1/runs/{run_id}")).json() for run_id in ids]
    states = {run["run_id"]: (run["state"], run["detail"]) for run in runs}
    assert [states[run_id] for run_id in ids[1:3]] == [("error", "too dear")] * 2
    assert (states[ids[0]][0], states[ids[3]][0]) == ("finished", "pending")
    problem(await http.post("/v1/batches/none/cancel"), 404)


async def test_a_run_of_a_batch_that_is_refused_is_named(http):
    body = {"batch_id": "b", "runs": [ASKED, ASKED | {"problem": "nope"}, ASKED]}
    assert "run 2 of 3 of batch 'b'" in problem(await http.post("/v1/batches", json=body), 404)
    for _ in range(1000):  # nobody waited for what was asked before the refusal to be in the tables
        if listed := (await http.get("/v1/runs")).json()["runs"]:
            break
        await asyncio.sleep(0.01)
    assert len(listed) == 1
    problem(await http.post("/v1/batches", json={"batch_id": "b", "runs": []}), 422)
