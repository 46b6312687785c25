"""The NATS ingress with a real server and the real service: as documented, and with everything that users get wrong."""

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guarded_nats import GuardedServer, login, password_of, service_login
from integration.ledger_process import LedgerProcess, publish_problem

from ridges.contracts.subjects import INGRESS_STREAM

README = Path(__file__).parents[2] / "services/ledger/README.md"
AGENT = "def agent_main(input):\n    return ''\n"
GOOD = {"problem": "fix-a", "agent_source": AGENT}


@pytest.fixture
async def ledger(nats_server, tmp_path):
    process = LedgerProcess(nats_server, tmp_path / "ledger").start()
    try:
        await process.until_ready()
        await publish_problem(nats_server, "fix-a")
        yield process
    finally:
        process.kill9()


async def ask(nats_server, payload, subject="in.RunRequested", headers=None):
    """Publish and wait for the answer."""
    async with nats_server.client() as client:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.jetstream().publish(subject, payload, headers={"Ridges-Reply-To": inbox} | (headers or {}))
        return json.loads((await answers.next_msg(timeout=20)).data)


async def emptied(nats_server):
    """The work queue holds nothing any more."""
    async with nats_server.client() as client:
        for _ in range(200):
            if (await client.jetstream().stream_info(INGRESS_STREAM)).state.messages == 0:
                return True
            await asyncio.sleep(0.05)
    return False


def documented_program():
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return program


async def run_documented(nats_server, folder, agent):
    path = folder / "mine.py"
    path.write_text(agent, encoding="utf-8")
    environment = {"NATS_URL": nats_server.url, "PROBLEM": "fix-a", "AGENT": str(path)}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", documented_program()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_the_program_in_the_readme_starts_a_run(ledger, nats_server, tmp_path):
    told = await run_documented(nats_server, tmp_path, AGENT)
    assert "stored as 1" in told
    assert "'accepted': True" in told
    (run,) = (await ledger.get("/v1/runs")).json()["runs"]
    assert run["run_id"] in told
    detail = (await ledger.get(f"/v1/runs/{run['run_id']}")).json()
    assert detail["limits"]["model"]["max_cost_nano_usd"] == 500_000_000


async def test_the_program_in_the_readme_shows_why_a_request_is_refused(ledger, nats_server, tmp_path):
    told = await run_documented(nats_server, tmp_path, "x = 1")
    assert "'accepted': False" in told
    assert "agent_main" in told


BAD = (
    ("in.RunRequested", b"\xff\xfe not json", "no RequestRun"),
    ("in.RunRequested", b"", "no RequestRun"),
    ("in.RunRequested", b'"text"', "no RequestRun"),
    ("in.RunRequested", json.dumps(GOOD | {"agnet": 1}).encode(), "agnet"),
    ("in.RunRequested", json.dumps(GOOD | {"problem": "nope"}).encode(), "no problem 'nope'"),
    ("in.RunRequested", json.dumps(GOOD | {"agent_source": "def agent_main("}).encode(), "line 1"),
    ("in.RunCancelled", b'{"run_id":"11111111-1111-4111-8111-111111111111"}', "no run"),
    ("in.RunCancelled", b'{"run_id":"*"}', "not a UUID"),
    ("in.SomethingElse", b"{}", "in.RunRequested"),
)


async def test_bad_requests_are_answered_kept_and_not_delivered_again(ledger, nats_server):
    for number, (subject, payload, told) in enumerate(BAD, 1):
        answer = await ask(nats_server, payload, subject)
        assert answer["accepted"] is False, payload
        assert told in answer["reason"], payload
        refusals = (await ledger.get("/v1/refusals")).json()
        assert len(refusals) == number
        assert (refusals[0]["subject"], refusals[0]["reason"]) == (subject, answer["reason"])
        assert refusals[0]["content"] == payload.decode("utf-8", "replace")
    assert await emptied(nats_server)
    assert (await ledger.get("/v1/runs")).json()["runs"] == []


async def test_a_run_is_asked_for_and_cancelled(ledger, nats_server):
    run_id = (await ask(nats_server, json.dumps(GOOD).encode()))["run_id"]
    cancel = {"run_id": run_id, "reason": "enough"}
    assert await ask(nats_server, json.dumps(cancel).encode(), "in.RunCancelled") == {
        "accepted": True,
        "run_id": run_id,
    }
    run = await ledger.until_run(run_id, lambda run: run["state"] == "error")
    assert (run["cause"], run["detail"]) == ("cancelled", "enough")


async def test_publishing_twice_with_a_run_id_or_a_key_is_one_run(ledger, nats_server):
    own = GOOD | {"run_id": "22222222-2222-4222-8222-222222222222"}
    answers = [await ask(nats_server, json.dumps(own).encode()) for _ in range(2)]
    answers += [await ask(nats_server, json.dumps(GOOD).encode(), headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer["accepted"] for answer in answers] == [True] * 4
    assert len({answer["run_id"] for answer in answers}) == 2
    assert len((await ledger.get("/v1/runs")).json()["runs"]) == 2


async def test_a_request_without_a_reply_subject_is_carried_out_too(ledger, nats_server):
    async with nats_server.client() as client:
        acknowledged = await client.request("in.RunRequested", json.dumps(GOOD).encode(), timeout=10)
    assert json.loads(acknowledged.data)["stream"] == INGRESS_STREAM
    assert await emptied(nats_server)
    assert len((await ledger.get("/v1/runs")).json()["runs"]) == 1


async def test_requests_published_while_the_ledger_is_down_are_carried_out_when_it_is_back(ledger, nats_server):
    ledger.kill9()
    async with nats_server.client() as client:
        for _ in range(3):
            await client.jetstream().publish("in.RunRequested", json.dumps(GOOD).encode())
        await client.jetstream().publish("in.RunRequested", b"{")
    ledger.start()
    await ledger.until_ready()
    assert await emptied(nats_server)
    assert len((await ledger.get("/v1/runs")).json()["runs"]) == 3
    assert len((await ledger.get("/v1/refusals")).json()) == 1


async def test_a_message_that_is_delivered_again_is_the_same_run(ledger, nats_server):
    """Kill -9 between append and acknowledgement is this: the same message a second time."""
    async with nats_server.client() as client:
        for number in range(20):
            await client.jetstream().publish("in.RunRequested", json.dumps(GOOD | {"batch_id": str(number)}).encode())
        for _ in range(4):
            await asyncio.sleep(0.25)
            ledger.kill9()
            ledger.start()
    await ledger.until_ready()
    assert await emptied(nats_server)
    runs = (await ledger.get("/v1/runs?limit=500")).json()["runs"]
    assert sorted(int(run["batch_id"]) for run in runs) == list(range(20))


async def test_the_ingress_goes_on_after_the_server_was_killed(ledger, nats_server):
    assert (await ask(nats_server, json.dumps(GOOD).encode()))["accepted"]
    nats_server.restart()
    await ledger.until_ready()
    assert (await ask(nats_server, json.dumps(GOOD).encode()))["accepted"]
    assert len((await ledger.get("/v1/runs")).json()["runs"]) == 2
    assert ledger.running


async def test_a_consumer_that_somebody_deleted_is_made_again(ledger, nats_server):
    async with nats_server.client() as client:
        await client.jetstream().delete_consumer(INGRESS_STREAM, "ledger")
    assert (await ask(nats_server, json.dumps(GOOD).encode()))["accepted"]


class TestGuarded:
    """At a server with users, as every shipped configuration has them."""

    @pytest.fixture
    async def guarded(self, tmp_path):
        server = GuardedServer(tmp_path / "guarded").start()
        try:
            await server.migrate()
            yield server
        finally:
            server.kill9()

    @pytest.fixture
    async def own_ledger(self, guarded, tmp_path):
        process = LedgerProcess(guarded, tmp_path / "ledger", **service_login("ledger")).start()
        try:
            await process.until_ready()
            yield process
        finally:
            process.kill9()

    async def test_anybody_asks_and_is_answered(self, own_ledger, guarded):
        answer = await ask(guarded, json.dumps(GOOD).encode())
        assert answer["accepted"] is False
        assert "no problem 'fix-a'" in answer["reason"]
        assert own_ledger.running

    async def test_an_answer_never_becomes_an_event(self, own_ledger, guarded):
        """The ledger may write RunRequested, whoever asks may not: not by way of the answer either."""
        forged = {"Ridges-Reply-To": "ev.forged.RunRequested"}
        async with guarded.client() as client:
            await client.jetstream().publish("in.RunRequested", json.dumps(GOOD).encode(), headers=forged)
        refusals = (await own_ledger.until("/v1/refusals", lambda answer: answer.json())).json()
        assert "'ev.forged.RunRequested', which is no inbox" in refusals[0]["reason"]
        async with guarded.client(**login("admin")) as client:
            assert (await client.jetstream().stream_info("EVENTS")).state.messages == 0

    async def test_a_ledger_that_may_not_read_the_ingress_says_so(self, guarded, tmp_path):
        process = LedgerProcess(guarded, tmp_path / "ledger", **service_login("evaluator")).start()
        try:
            answer = await process.until("/readyz", lambda a: "permission" in str(a.json().get("failing")))
            assert "'evaluator'" in answer.json()["failing"]["ingress"]
        finally:
            process.kill9()

    @pytest.mark.parametrize("admin", [False, True])
    async def test_only_the_admin_restores(self, guarded, tmp_path, admin):
        extra = {"RIDGES_NATS_ADMIN_USER": "admin", "RIDGES_NATS_ADMIN_PASSWORD": password_of("admin")} if admin else {}
        process = LedgerProcess(guarded, tmp_path / "ledger", **service_login("ledger"), **extra).start()
        try:
            await process.until_ready()
            await publish_problem(guarded, "fix-a", process.blobs_url, **login("evaluator"))
            assert '"ok":true' in (await process.post("/v1/admin/archive")).text
            async with guarded.client(**login("admin")) as client:
                await client.jetstream().delete_stream("EVENTS")
            await guarded.migrate()
            process.kill9()
            process.start()
            await process.until("/livez", lambda answer: answer.status_code == 200)
            began = time.monotonic()
            told = (await process.post("/v1/admin/restore")).text
            if admin:
                assert "published 1 events" in told
            else:
                assert "RIDGES_NATS_ADMIN_USER" in told
                assert time.monotonic() - began < 20
        finally:
            process.kill9()
