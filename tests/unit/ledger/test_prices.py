"""Price lists are events; history can be priced with any of them, without touching the record."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.ledger.independent_fold import charged_attempts
from unit.ledger.samples import RUN, START, Author, recorded
from unit.ledger.test_costs import IN_MEMORY, KINDS, events_of, steps
from unit.ledger.test_http import client_of, problem

from ridges.contracts import events as ev
from ridges.contracts.usage import TokenPrice, TokenUsage, cost_nano_usd
from ridges.ledger.errors import RequestRefused
from ridges.ledger.price_lists import price_list_in, vendored
from ridges.ledger.projections.apply import Projections
from ridges.ledger.projections.schema import open_projections
from ridges.ledger.queries import Queries

TOML = """
price_list = "2026-12"
source = "https://example.org/prices"
effective_at = 2026-12-01

[prices."p/served"]
input_usd = "2.000000001"
output_usd = "4"
cached_input_usd = "0.5"
"""
NAMES = ["chutes/served", "targon/served", "(unknown)/served"]
prices = st.builds(TokenPrice, **dict.fromkeys(KINDS, st.integers(0, 10**10)))


@pytest.fixture
async def http(wired):
    async with client_of(wired) as client:
        yield client


def listed(price, price_list="x"):
    return Author().event(
        ev.PriceListPublished, "prices", price_list=price_list, prices=price, source="s", effective_at=START
    )


@settings(max_examples=80, deadline=None)
@given(script=steps, new=st.dictionaries(st.sampled_from(NAMES), prices))
def test_every_attempt_is_priced_again_and_what_has_no_price_or_tokens_keeps_its_cost(script, new):
    events = list(events_of(script))
    projections = Projections(open_projections(IN_MEMORY))
    try:
        projections.apply(recorded(*events))
        queries = Queries(projections.connection)
        report = queries.reprice(listed(new), None)
        total = queries.costs("run").total
        changed = priced = 0
        for attempt in charged_attempts(events):
            price = new.get(f"{attempt.provider}/served")
            if price is not None:
                priced += attempt.cost_nano_usd
                changed += cost_nano_usd(attempt.usage, price)
        assert report.recorded_nano_usd == total.cost_nano_usd == report.kept_nano_usd + priced
        assert report.repriced_nano_usd == report.kept_nano_usd + changed
        assert sum(row.recorded_nano_usd for row in report.rows) == report.recorded_nano_usd
        assert set(report.unpriced).isdisjoint(new)
    finally:
        projections.close()


def test_the_prices_of_the_record_give_the_cost_of_the_record():
    author, uneven = Author(), TokenPrice(input=333_333, output=1_000_001, cached_input=7, reasoning=999_999)
    made = []
    for number in range(50):
        usage = TokenUsage(input=number, output=3 * number, cached_input=7, reasoning=number % 4)
        attempt = author.attempt(usage=usage, cost=cost_nano_usd(usage, uneven))
        made.append(author.made(f"c{number}", attempts=[attempt]))
    projections = Projections(open_projections(IN_MEMORY))
    try:
        projections.apply(recorded(author.requested(), *made))
        report = Queries(projections.connection).reprice(listed({"p/served": uneven}), None)
        assert report.recorded_nano_usd == report.repriced_nano_usd > 0
        assert (report.unpriced, report.kept_nano_usd) == ((), 0)
    finally:
        projections.close()


def test_a_toml_list_is_read_exactly():
    found = price_list_in(TOML, START)
    assert (found.price_list, found.effective_at) == ("2026-12", datetime(2026, 12, 1, tzinfo=UTC))
    assert found.prices == {
        "p/served": TokenPrice(
            input=2_000_000_001, output=4_000_000_000, cached_input=500_000_000, reasoning=4_000_000_000
        )
    }


def test_the_providers_of_a_ridges_toml_are_a_price_list():
    text = '[[provider]]\nname = "p"\nkind = "replay"\n[[provider.model]]\nname = "m"\nserved = "s"\ninput_usd = "1"\n'
    found = price_list_in(text, START)
    assert list(found.prices) == ["p/s"]
    assert found.price_list.startswith("list-")
    assert found.effective_at == START


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = ", "no price list"),
        ("", "no prices"),
        ('[prices."p/s"]\ninput_usd = 1.5\noutput_usd = "1"', "str"),
        ('[prices."p/s"]\ninput_usd = "-1"\noutput_usd = "1"', "negative"),
        ('[prices."p/s"]\ninput_usd = "1"', "output_usd"),
        ('[prices."p/s"]\ninput_usd = "1"\noutput_usd = "1"\nimput_usd = "1"', "imput_usd"),
        ('[prices."s"]\ninput_usd = "1"\noutput_usd = "1"', "provider/served model"),
        ('price_list = "a/b"\n[prices."p/s"]\ninput_usd = "1"\noutput_usd = "1"', "cannot be an id"),
        ('effective_at = 12:00:00\n[prices."p/s"]\ninput_usd = "1"\noutput_usd = "1"', "effective_at"),
    ],
)
def test_what_is_no_price_list_is_refused_with_the_reason_and_an_example(text, told):
    with pytest.raises(RequestRefused, match="price_list") as refused:
        price_list_in(text, START)
    assert told in str(refused.value)


def test_the_vendored_table_names_its_source_and_date():
    table = vendored()
    assert len(table.prices) > 500
    assert table.source.startswith("https://")
    assert table.effective_at.tzinfo is not None
    assert all("/" in name for name in table.prices)


async def test_lists_are_published_listed_shown_and_chosen(wired, http):
    await wired.add(wired.author.requested(), wired.author.made())
    created = await http.post("/v1/price-lists", content=TOML)
    assert created.status_code == 201, created.text
    assert (await http.post("/v1/price-lists", content=TOML)).json() == created.json(), "publishing again is harmless"
    await wired.caught_up()
    other = TOML.replace('"4"', '"5"')
    assert "other prices" in problem(await http.post("/v1/price-lists", content=other), 409)
    assert [row["price_list"] for row in (await http.get("/v1/price-lists")).json()] == ["2026-12", "list"]
    assert (await http.get("/v1/price-lists/2026-12")).json()["prices"]["p/served"]["output"] == 4_000_000_000
    report = (await http.get("/v1/reprice", params={"price_list": "2026-12"})).json()
    assert (report["recorded_nano_usd"], report["repriced_nano_usd"]) == (10, 5 * 2000 + 3 * 4000 + 1)
    assert [(row["model"], row["day"]) for row in report["rows"]] == [("m", "2026-01-31")]
    same = (await http.post("/v1/reprice", content=TOML)).json()
    assert same == report
    assert (await http.get("/v1/reprice", params={"price_list": "2026-12", "since": "2026-02-01"})).json()["rows"] == []
    assert wired.queries.row(RUN).cost_nano_usd == 10, "the record is untouched"
    problem(await http.get("/v1/reprice", params={"price_list": "nope"}), 404)
    problem(await http.get("/v1/reprice", params={"price_list": "2026-12", "since": "yesterday"}), 422)
    problem(await http.post("/v1/price-lists", content=b"\xff"), 422)


async def test_the_vendored_table_can_be_published_and_chosen_without(wired, http):
    report = (await http.get("/v1/reprice", params={"price_list": "vendored"})).json()
    assert report["price_list"].startswith("genai-prices-")
    created = await http.post("/v1/price-lists")
    assert created.status_code == 201, created.text
    await wired.caught_up()
    assert (await http.get("/v1/price-lists")).json()[0]["models"] == len(vendored().prices)
