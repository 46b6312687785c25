"""The HTTP API and the web page, in memory."""

import base64
import json

import httpx
import msgspec
import pytest
from unit.ledger.samples import AGENT, OTHER_RUN, RUN, wired_ledger

from ridges.contracts.blobs import digest_of, ref_to
from ridges.contracts.requests import AGENT_MAX_BYTES

BODY = {"problem": "fix-a", "agent_source": AGENT.decode()}
LOCAL = "http://127.0.0.1:8100"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def client_of(wired, base_url=LOCAL):
    """A client of the application in this loop."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(wired.ledger.http({})), base_url=base_url)


@pytest.fixture
async def http(wired):
    await wired.add(wired.author.published("fix-a"))
    async with client_of(wired) as client:
        yield client


async def finished_run(wired, agent_name="agent.py", patch=b"--- a\n+++ b\n", log=b"hello\xff", message=None):
    a = wired.author
    for content in (patch, log, b"pytest log"):
        await wired.blobs.put(content, "text/plain")
    tested = a.tested(log=ref_to(b"pytest log", "text/plain"), detail=message)
    await wired.add(a.requested(agent_name=agent_name), a.started(), a.made(), a.patched(patch=patch, log=log), tested)


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    document = answer.json()
    assert document["status"] == status
    return document["detail"]


async def test_a_request_is_answered_with_the_run_and_can_be_read_at_once(http):
    created = await http.post("/v1/runs", json=BODY)
    assert created.status_code == 201, created.text
    run = created.json()
    assert (run["state"], run["problem"], run["agent"]) == ("pending", "fix-a", digest_of(AGENT))
    assert created.headers["location"] == f"/v1/runs/{run['run_id']}"
    assert (await http.get(created.headers["location"])).json() == run
    listed = (await http.get("/v1/runs")).json()
    assert [row["run_id"] for row in listed["runs"]] == [run["run_id"]]
    assert listed["next_cursor"] is None


async def test_the_results_of_the_hidden_tests_are_read_by_themselves(wired, http):
    await wired.add(wired.author.requested())
    assert (await http.get(f"/v1/runs/{RUN}/tests")).json() == []
    await wired.add(wired.author.started(), wired.author.patched(), wired.author.tested())
    found = (await http.get(f"/v1/runs/{RUN}/tests")).json()
    assert found == (await http.get(f"/v1/runs/{RUN}")).json()["tests"] != []
    problem(await http.get(f"/v1/runs/{OTHER_RUN}/tests"), 404)


async def test_an_idempotency_key_makes_a_retry_the_same_run(http):
    first = await http.post("/v1/runs", json=BODY, headers={"Idempotency-Key": "k"})
    second = await http.post("/v1/runs", json=BODY, headers={"Idempotency-Key": "k"})
    assert first.json() == second.json()
    other = await http.post("/v1/runs", json=BODY | {"model": "m"}, headers={"Idempotency-Key": "k"})
    assert "another model" in problem(other, 409)
    assert len((await http.get("/v1/runs")).json()["runs"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, ""),
        (b"[]", 422, "object"),
        (b"\xff\xfe", 400, ""),
        (json.dumps(BODY | {"agnet": 1}).encode(), 422, "agnet"),
        (json.dumps({"problem": "fix-a"}).encode(), 422, "agent_source"),
        (json.dumps(BODY | {"limits": {"max_cost_usd": "1e9"}}).encode(), 422, "max_cost_usd"),
        (json.dumps(BODY | {"limits": {"max_cost_usd": 1.0}}).encode(), 422, "max_cost_usd"),
        (json.dumps(BODY | {"sandbox": "none"}).encode(), 422, "sandbox"),
        (json.dumps(BODY | {"problem": "nope"}).encode(), 404, "nope"),
        (json.dumps(BODY | {"agent_source": "x = 1"}).encode(), 422, "agent_main"),
        (json.dumps(BODY | {"agent_source": "#" * (AGENT_MAX_BYTES + 1)}).encode(), 413, "2 MiB"),
        (b" " * (17 * 1024 * 1024), 413, ""),
    ],
    ids=[
        "cut",
        "list",
        "bytes",
        "unknown field",
        "no agent",
        "float text",
        "float",
        "enum",
        "problem",
        "agent",
        "2 MiB",
        "body",
    ],
)
async def test_a_bad_request_is_a_problem_document_and_no_run(http, body, status, told):
    answer = await http.post("/v1/runs", content=body, headers={"content-type": "application/json"})
    assert told in problem(answer, status)
    assert (await http.get("/v1/runs")).json()["runs"] == []


async def test_a_finished_run_shows_everything(wired, http):
    await finished_run(wired)
    run = (await http.get(f"/v1/runs/{RUN[:8]}")).json()
    assert (run["verdict"], run["patch"], run["cost_nano_usd"], run["cost_usd"]) == (
        "resolved",
        "--- a\n+++ b\n",
        10,
        "0.00000001",
    )
    assert [test["status"] for test in run["tests"]] == ["pass", "pass"]
    patch = await http.get(f"/v1/runs/{RUN}/patch")
    assert (patch.content, patch.headers["content-type"]) == (b"--- a\n+++ b\n", "text/x-diff; charset=utf-8")
    log = await http.get(f"/v1/runs/{RUN}/log")
    assert (log.content, log.headers["x-content-type-options"]) == (b"hello\xff", "nosniff")
    assert (await http.get(f"/v1/runs/{RUN}/evaluation-log")).content == b"pytest log"
    events = (await http.get(f"/v1/runs/{RUN}/events")).json()
    assert [row["event"]["type"] for row in events] == [
        "RunRequested",
        "AgentStarted",
        "InferenceMade",
        "PatchProduced",
        "TestsFinished",
    ]


async def test_the_end_of_a_lost_attempts_log_can_be_read(wired, http):
    a = wired.author
    for content in (b"patch", b"second", b"end of the first"):
        await wired.blobs.put(content, "text/plain")
    again = msgspec.structs.replace(a.started(attempt=2), previous_log=ref_to(b"end of the first", "text/plain"))
    await wired.add(a.requested(), a.started(attempt=1), again, a.patched(attempt=2, patch=b"patch", log=b"second"))
    for query, content in (("", b"second"), ("?attempt=2", b"second"), ("?attempt=1", b"end of the first")):
        assert (await http.get(f"/v1/runs/{RUN}/log{query}")).content == content
    assert "no log of attempt 3" in problem(await http.get(f"/v1/runs/{RUN}/log?attempt=3"), 404)


async def test_what_each_attempt_changed_can_be_read(wired, http):
    a = wired.author
    for content in (b"patch", b"last seen"):
        await wired.blobs.put(content, "text/x-diff")
    again = msgspec.structs.replace(a.started(attempt=2), previous_patch=ref_to(b"last seen", "text/x-diff"))
    await wired.add(a.requested(), a.started(attempt=1), again, a.patched(attempt=2, patch=b"patch"))
    for query, content in (("", b"patch"), ("?attempt=2", b"patch"), ("?attempt=1", b"last seen")):
        assert (await http.get(f"/v1/runs/{RUN}/patch{query}")).content == content
    assert "no patch of attempt 3" in problem(await http.get(f"/v1/runs/{RUN}/patch?attempt=3"), 404)


async def test_what_a_run_does_not_have_is_404_and_says_so(wired, http):
    await wired.add(wired.author.requested())
    for what in ("log", "evaluation-log", "patch"):
        assert "state: pending" in problem(await http.get(f"/v1/runs/{RUN}/{what}"), 404)
    assert "no run" in problem(await http.get(f"/v1/runs/{OTHER_RUN}"), 404)
    assert "no run" in problem(await http.get(f"/v1/runs/{OTHER_RUN}/stream"), 404)


async def test_a_missing_blob_costs_the_patch_but_not_the_run(wired, http):
    await finished_run(wired)
    wired.blobs.contents.clear()
    run = (await http.get(f"/v1/runs/{RUN}")).json()
    assert (run["patch"], run["verdict"]) == (None, "resolved")
    assert "RIDGES_BLOBS_URL" in problem(await http.get(f"/v1/runs/{RUN}/log"), 500)


async def test_an_ambiguous_prefix_names_the_candidates(wired, http):
    await wired.add(wired.author.requested(), wired.author.requested(OTHER_RUN))
    told = problem(await http.get("/v1/runs/1111"), 409)
    assert RUN in told
    assert OTHER_RUN in told


async def test_cancel(wired, http):
    await wired.add(wired.author.requested())
    answer = await http.post(f"/v1/runs/{RUN[:8]}/cancel", json={"reason": "enough"})
    assert answer.status_code == 202, answer.text
    assert (answer.json()["state"], answer.json()["cause"], answer.json()["detail"]) == ("error", "cancelled", "enough")
    again = await http.post(f"/v1/runs/{RUN}/cancel")
    assert (again.status_code, again.json()["detail"]) == (202, "enough")
    problem(await http.post(f"/v1/runs/{OTHER_RUN}/cancel"), 404)


async def test_filters_and_cursor(wired, http):
    await wired.add(*(wired.author.requested(f"{n:08d}-0000-4000-8000-000000000000") for n in range(5)))
    first = (await http.get("/v1/runs", params={"limit": 3, "state": ["pending", "error"]})).json()
    rest = (await http.get("/v1/runs", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert len(first["runs"] + rest["runs"]) == 5
    assert (await http.get("/v1/runs", params={"state": "finished"})).json()["runs"] == []
    problem(await http.get("/v1/runs", params={"state": "sleeping"}), 422)
    problem(await http.get("/v1/runs", params={"limit": 0}), 422)
    problem(await http.get("/v1/runs", params={"cursor": "!"}), 422)


async def test_costs_problems_refusals_parked(wired, http):
    await finished_run(wired)
    for by, key in (("run", RUN), ("problem", "fix-a"), ("provider", "p"), ("model", "m"), ("day", "2026-01-31")):
        report = (await http.get("/v1/costs", params={"by": by})).json()
        assert [(row["key"], row["cost_usd"]) for row in report["rows"]] == [(key, "0.00000001")]
        assert report["total"]["cost_nano_usd"] == 10
    problem(await http.get("/v1/costs", params={"by": "moon"}), 422)
    assert [row["problem_id"] for row in (await http.get("/v1/problems")).json()] == ["fix-a"]
    assert (await http.get("/v1/refusals")).json() == []
    assert (await http.get("/v1/parked")).json() == []


async def test_an_upload_can_be_run(http):
    uploaded = await http.post("/v1/blobs", content=AGENT, headers={"X-Media-Type": "text/x-python"})
    assert uploaded.status_code == 201, uploaded.text
    assert uploaded.json() == {"digest": digest_of(AGENT), "size": len(AGENT), "media_type": "text/x-python"}
    created = await http.post("/v1/runs", json={"problem": "fix-a", "agent": uploaded.json()})
    assert created.status_code == 201, created.text
    problem(await http.post("/v1/blobs", content=b"x", headers={"X-Media-Type": "a b c"}), 422)
    problem(await http.post("/v1/blobs", content=b"x" * (17 * 1024 * 1024)), 413)


async def test_when_the_tables_do_not_follow_the_answer_says_that_the_request_is_safe(wired, http, monkeypatch):
    await wired.store.inject("ev.x.y", b"garbage")
    await wired.ledger.projector.reached(10**9, 5)
    told = problem(await http.post("/v1/runs", json=BODY | {"run_id": RUN}), 503)
    assert RUN in told
    assert "do not ask again under another id" in told
    ready = await http.get("/readyz")
    assert ready.status_code == 503
    assert "projection" in ready.json()["failing"]
    assert (await http.get("/livez")).status_code == 200
    assert [row["problem_id"] for row in (await http.get("/v1/problems")).json()] == ["fix-a"]


async def test_unknown_paths_and_methods_are_problem_documents(http):
    problem(await http.get("/v1/nothing"), 404)
    problem(await http.delete("/v1/runs"), 405)


async def test_pages_show_hostile_text_as_text(wired, http):
    text = HOSTILE.encode()
    await finished_run(wired, agent_name=HOSTILE, patch=b"+" + text, log=text, message=HOSTILE)
    for path in ("/", f"/runs/{RUN}", f"/runs/{RUN[:6]}", "/runs/<img src=x>"):
        page = await http.get(path)
        assert page.headers["content-type"].startswith("text/html"), path
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "<script" not in page.text
        assert "<img" not in page.text
    assert "&lt;script&gt;" in (await http.get(f"/runs/{RUN}")).text
    assert (await http.get("/style.css")).headers["content-type"].startswith("text/css")


async def test_pages_of_live_runs_refresh_and_others_do_not(wired, http):
    assert "No run yet" in (await http.get("/")).text
    await wired.add(wired.author.requested())
    assert 'http-equiv="refresh"' in (await http.get("/")).text
    await wired.add(wired.author.started(), wired.author.patched(), wired.author.tested())
    assert 'http-equiv="refresh"' not in (await http.get(f"/runs/{RUN}")).text
    assert (await http.get(f"/runs/{OTHER_RUN}")).status_code == 404
    assert (await http.get("/", params={"cursor": "?"})).status_code == 422


async def test_a_foreign_web_page_cannot_start_runs_or_rebind_its_name(http):
    foreign = await http.post("/v1/runs", json=BODY, headers={"Origin": "https://evil.example"})
    assert "evil.example" in problem(foreign, 403)
    assert "host" in problem(await http.get("/v1/runs", headers={"Host": "evil.example:8100"}), 403)
    same = await http.post("/v1/runs", json=BODY, headers={"Origin": LOCAL})
    assert same.status_code == 201


async def test_with_a_token_nothing_but_health_is_open(tmp_path):
    token = "correct horse battery"
    async with (
        wired_ledger(tmp_path, http_host="0.0.0.0", api_token=token) as wired,
        client_of(wired, "http://ledger.example") as client,
    ):
        for path in ("/v1/runs", "/", "/schema/openapi.json", "/metrics", "/v1/stream"):
            refused = await client.get(path)
            assert (refused.status_code, "Bearer" in refused.headers["www-authenticate"]) == (401, True), path
        assert (await client.get("/livez")).status_code == 200
        basic = base64.b64encode(f"anyone:{token}".encode()).decode()
        for value in (f"Bearer {token}", f"bearer {token}", f"Basic {basic}"):
            assert (await client.get("/v1/runs", headers={"Authorization": value})).status_code == 200
        for value in ("Bearer wrong", f"Digest {token}", "Bearer", "Basic !!!", f"Basic {token}", "Bearer \u00e9"):
            headers = {"Authorization": value.encode("latin-1")}
            assert (await client.get("/v1/runs", headers=headers)).status_code == 401, value
