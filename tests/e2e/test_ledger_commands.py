"""`ridges ledger …`, `ridges costs` and `ridges export` on a real run."""

import csv
import json
import xml.etree.ElementTree as ET

import pytest

pytestmark = pytest.mark.timeout(300)
PROBLEM = "create-energy-bill"
PRICES = """
price_list = "double"
source = "a test"
effective_at = 2026-11-01
[prices."replay/ridges-replay-1"]
input_usd = "1000"
output_usd = "1000"
"""


@pytest.fixture(scope="module")
def with_a_run(running_project):
    done = running_project.ridges(
        "run", "-a", "examples/agents/llm_agent.py", "-p", PROBLEM, "--sandbox", "bubblewrap", "--json"
    )
    assert done.code in (0, 1), done
    return running_project, done.document


def test_the_log_is_proved_archived_and_rebuilt(with_a_run):
    project, _ = with_a_run
    verified = project.ridges("ledger", "verify", "--json")
    assert (verified.code, verified.document["findings"]) == (0, []), verified
    archived = project.ridges("ledger", "archive")
    assert (archived.code, "sealed" in archived.stdout) == (0, True), archived
    for options in ((), ("--from-archive",)):
        rebuilt = project.ridges("ledger", "rebuild", "--verify", *options, "--json")
        assert (rebuilt.code, rebuilt.document["ok"]) == (0, True), rebuilt
        assert "every row is the same" in str(rebuilt.document["summary"])
    assert project.ridges("ledger", "verify", "--json").document["findings"] == []


def test_the_past_is_priced_again_and_the_record_stays(with_a_run):
    project, run = with_a_run
    prices = project.folder / "prices.toml"
    prices.write_text(PRICES, "utf-8")
    tokens = sum(run["usage"].values())
    for chosen in ("prices.toml", "double"):
        report = project.ridges("ledger", "reprice", "--prices", chosen, "--json").document
        assert report["recorded_nano_usd"] == run["cost_nano_usd"]
        assert report["repriced_nano_usd"] == tokens * 1_000_000
        published = project.ridges("ledger", "prices", "--publish", "prices.toml")
        assert published.code == 0, published
    own = project.ridges("ledger", "reprice", "--prices", "ridges.toml", "--json").document
    assert own["repriced_nano_usd"] == own["recorded_nano_usd"]
    assert project.ridges("costs", "--json").document["total"]["cost_nano_usd"] == run["cost_nano_usd"]
    refused = project.ridges("ledger", "reprice", "--prices", "nope")
    assert refused.code == 2
    assert "nope" in refused.stderr


@pytest.mark.parametrize("by", ["attempt", "batch", "token_kind"])
def test_every_cut_of_the_costs_has_the_same_total(with_a_run, by):
    project, run = with_a_run
    report = project.ridges("costs", "--by", by, "--json").document
    assert sum(row["cost_nano_usd"] for row in report["rows"]) == run["cost_nano_usd"]


def test_exports_are_read_back(with_a_run):
    project, run = with_a_run
    for name in ("runs.jsonl", "runs.csv", "runs.xml", "runs.html"):
        assert project.ridges("export", name).code == 0
    assert json.loads((project.folder / "runs.jsonl").read_text())["cost_nano_usd"] == run["cost_nano_usd"]
    with (project.folder / "runs.csv").open() as file:
        assert [row["run_id"] for row in csv.DictReader(file)] == [run["run_id"]]
    [suite] = ET.parse(project.folder / "runs.xml").getroot()
    assert suite.get("tests") == str(len(run["tests"]))
    assert project.ridges("export", "costs.csv", "--by", "day").code == 0
    wrong = project.ridges("export", "runs.xls")
    assert (wrong.code, ".parquet" in wrong.stderr) == (2, True)
