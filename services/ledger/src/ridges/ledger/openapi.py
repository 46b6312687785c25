"""Prints the OpenAPI document of the HTTP API: ``python -m ridges.ledger.openapi``."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.clock import SystemClock
from ridges.chassis.memory_store import MemoryEventStore
from ridges.ledger import queries, refusals
from ridges.ledger.app import Ledger
from ridges.ledger.projections import apply
from ridges.ledger.settings import LedgerSettings


def openapi_text() -> str:
    """The document as indented JSON."""
    clock = SystemClock()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        ledger = Ledger(
            LedgerSettings(blobs_url="file:///", state_dir=folder),
            store=MemoryEventStore(clock),
            blobs=MemoryBlobStore(),
            clock=clock,
            projections=stack.enter_context(apply.opened(folder / "projections.sqlite")),
            queries=stack.enter_context(queries.opened(folder / "projections.sqlite")),
            refusals=stack.enter_context(refusals.opened(folder / "refusals.sqlite")),
        )
        schema = ledger.http({}).openapi_schema.to_schema()
        return json.dumps(schema, indent=2, sort_keys=True, default=msgspec.to_builtins) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
