"""Prices change while the gateway runs: what was charged by can be chosen for ever, though nobody published it."""

import asyncio
import signal
from pathlib import Path

import pytest
from integration.gateway_world import chat, mock_config
from integration.ledger_process import LedgerProcess

from ridges.contracts.usage import cost_nano_usd
from ridges.gateway.providers_config import load_providers
from ridges.ledger.price_lists import price_list_in, vendored

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def ledger(nats_server, tmp_path):
    process = LedgerProcess(nats_server, tmp_path / "ledger").start()
    try:
        await process.until_ready()
        yield process
    finally:
        process.kill9()


async def test_history_is_repriced_by_every_list_that_calls_were_charged_by(ledger, start, log, mock):
    config = mock_config(mock.url, "ok")
    gateway = await asyncio.to_thread(start, config)
    run_id = await asyncio.to_thread(log.new_run)
    lists = []
    for prices in (config, config.replace('"1.5"', '"3"').replace('"4"', '"8"')):
        (gateway.folder / "ridges.toml").write_text(prices)
        gateway.process.send_signal(signal.SIGHUP)
        wanted = price_list_in(prices, vendored().effective_at)
        attempt = None
        async with asyncio.timeout(20):
            while attempt is None or attempt.price_list != wanted.price_list:
                assert (await asyncio.to_thread(chat, gateway, run_id)).status_code == 200
                attempt = (await asyncio.to_thread(log.events, run_id))[-1].attempts[0]
        lists.append((wanted.price_list, attempt.price))
    events = [event for event in await asyncio.to_thread(log.events, run_id) if hasattr(event, "attempts")]
    recorded = sum(event.cost_nano_usd for event in events)
    await ledger.until("/v1/costs?by=run", lambda answer: answer.json()["total"]["cost_nano_usd"] == recorded)

    rows = {row["price_list"]: row for row in (await ledger.get("/v1/price-lists")).json()}
    assert set(rows) == {price_list for price_list, _ in lists}
    assert {row["source"] for row in rows.values()} == {"recorded with the calls"}
    for price_list, price in lists:
        report = (await ledger.get("/v1/reprice", params={"price_list": price_list})).json()
        assert report["recorded_nano_usd"] == recorded
        assert report["repriced_nano_usd"] == sum(cost_nano_usd(event.usage, price) for event in events)
        shown = (await ledger.get(f"/v1/price-lists/{price_list}")).json()
        assert list(shown["prices"]) == ["mock/ok"]
    assert (await ledger.get("/v1/reprice", params={"price_list": "list-0000000000000000"})).status_code == 404


def test_gateway_and_ledger_give_the_same_prices_the_same_id(tmp_path):
    by_time = '[[provider.model]]\nname = "e"\nkind = "embedding"\ncontext = 100\nsecond_usd = "0.001"\n'
    for text in ((REPOSITORY / "ridges.toml").read_text(), mock_config("http://x/v1", "a", "b") + by_time):
        path = tmp_path / "ridges.toml"
        path.write_text(text)
        ours = price_list_in(text, vendored().effective_at).price_list
        assert load_providers(path, {"CANARY_KEY": "k"}).price_list == ours
