"""Fixtures of the ledger's tests."""

import pytest
from unit.ledger.samples import wired_ledger


@pytest.fixture
async def wired(tmp_path):
    async with wired_ledger(tmp_path) as ledger:
        yield ledger
