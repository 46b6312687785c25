"""Tokens have roles: read, run, admin."""

import re

import pytest
from unit.ledger.samples import AGENT, wired_ledger
from unit.ledger.test_http import client_of, problem

TOKENS = {
    "read": {"api_read_token": "r" * 20},
    "run": {"api_run_token": "u" * 20},
    "admin": {"api_token": "a" * 20},
}
RUN_BODY = {"problem": "fix-a", "agent_source": AGENT.decode()}
ROUTES = [
    ("GET", "/v1/runs", None, "read"),
    ("GET", "/v1/costs", None, "read"),
    ("GET", "/metrics", None, "read"),
    ("GET", "/", None, "read"),
    ("POST", "/v1/reprice", b'[prices."p/s"]\ninput_usd = "1"\noutput_usd = "1"', "read"),
    ("POST", "/v1/runs", RUN_BODY, "run"),
    ("POST", "/v1/batches", {"batch_id": "b", "runs": [RUN_BODY]}, "run"),
    ("POST", "/v1/blobs", b"x", "run"),
    ("POST", "/v1/price-lists", b"", "admin"),
    ("POST", "/v1/admin/verify", None, "admin"),
    ("POST", "/v1/admin/rebuild", None, "admin"),
    ("POST", "/v1/admin/archive", None, "admin"),
    ("POST", "/v1/settlements", {"run_id": "x", "call_id": "c", "cost_usd": "1"}, "admin"),
]
ORDER = ["read", "run", "admin"]


@pytest.mark.parametrize(("method", "path", "body", "needed"), ROUTES, ids=[f"{r[0]} {r[1]}" for r in ROUTES])
async def test_each_route_needs_its_role(tmp_path, method, path, body, needed):
    settings = {name: token for each in TOKENS.values() for name, token in each.items()}
    async with wired_ledger(tmp_path, http_host="0.0.0.0", **settings) as wired, client_of(wired) as client:
        await wired.add(wired.author.published("fix-a"))
        content = {"content": body} if isinstance(body, bytes) else {"json": body} if body else {}
        for role in ORDER:
            token = next(iter(TOKENS[role].values()))
            answer = await client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **content)
            if ORDER.index(role) < ORDER.index(needed):
                assert f"has the role {role}" in problem(answer, 403)
            else:
                assert answer.status_code not in (401, 403), answer.text
        assert (await client.request(method, path, **content)).status_code == 401


ADMIN_ONLY = {"rebuild", "verify", "archive", "restore", "settle", "publish_price_list"}
READING_POSTS = {"reprice_with"}
ENDLESS = {"stream_runs"}


async def test_every_documented_operation_needs_its_role(tmp_path):
    """Also one that is added later: what writes needs the role run, unless it stands in a list here."""
    settings = {name: token for each in TOKENS.values() for name, token in each.items()}
    async with wired_ledger(tmp_path, http_host="0.0.0.0", **settings) as wired, client_of(wired) as client:
        read = {"Authorization": "Bearer " + "r" * 20}
        document = (await client.get("/schema/openapi.json", headers=read)).json()
        operations = [
            (method, re.sub(r"\{.*?\}", "x" * 8, path), operation["operationId"])
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        assert len(operations) >= 30
        for method, path, name in operations:
            writes = "read" if method == "get" or name in READING_POSTS else "run"
            needed = "admin" if name in ADMIN_ONLY else writes
            assert (await client.request(method, path)).status_code == 401, name
            for role in ORDER if name not in ENDLESS else []:
                token = next(iter(TOKENS[role].values()))
                answer = await client.request(method, path, headers={"Authorization": f"Bearer {token}"})
                allowed = ORDER.index(role) >= ORDER.index(needed)
                assert (answer.status_code not in (401, 403)) == allowed, (name, role, answer.text)


async def test_on_loopback_without_tokens_everything_is_open(wired):
    async with client_of(wired) as client:
        assert (await client.post("/v1/price-lists")).status_code == 201


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"api_read_token": "r" * 20}, "RIDGES_API_TOKEN is not set"),
        ({"api_token": "r" * 20, "api_read_token": "r" * 20}, "must differ"),
    ],
)
def test_tokens_that_make_no_sense_are_refused(tmp_path, settings, told):
    from ridges.ledger.settings import LedgerSettings

    with pytest.raises(ValueError, match=told):
        LedgerSettings(blobs_url="file:///none", state_dir=tmp_path, **settings)
