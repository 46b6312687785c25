"""The ledger's OpenAPI document is the one that was agreed on."""

from pathlib import Path

from ridges.ledger.openapi import openapi_text

GOLDEN = Path(__file__).with_name("ledger.json")


def test_the_openapi_document_is_the_golden_one():
    same = openapi_text() == GOLDEN.read_text(encoding="utf-8")
    assert same, (
        "the HTTP API changed; if that is meant, write the file again: "
        "python -m ridges.ledger.openapi > tests/golden/openapi/ledger.json"
    )
