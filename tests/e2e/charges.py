"""What runs were charged, by a fold of their events that shares no code with the ledger."""

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import nats
from e2e.project import Project
from nats.js.api import ConsumerConfig

CHARGES = ("InferenceMade", "InferenceFailed", "InferenceSettled")


def charges_of(system: Project, run_id: str) -> dict[str, int]:
    """Cost in nano-USD by call, once every call is settled. No call may be charged twice."""
    give_up = time.monotonic() + 60
    while True:
        reserved: set[str] = set()
        charged: dict[str, int] = {}
        for event in events_of(system, run_id):
            if event["type"] == "InferenceReserved":
                reserved.add(event["call_id"])
            if event["type"] in CHARGES:
                assert event["call_id"] not in charged, f"call {event['call_id']} is charged twice"
                charged[event["call_id"]] = event["cost_nano_usd"]
        if reserved <= set(charged):
            unreserved = {call_id: cost for call_id, cost in charged.items() if call_id not in reserved}
            assert not any(unreserved.values()), f"charged without a reservation: {unreserved}"
            return {call_id: charged[call_id] for call_id in reserved}
        assert time.monotonic() < give_up, f"{run_id}: never settled: {reserved - set(charged)}"
        time.sleep(0.5)


def events_of(system: Project, run_id: str) -> list[dict[str, Any]]:
    """As they stand in the log."""

    async def read() -> list[dict[str, Any]]:
        connection = await nats.connect(str(system.state()["nats_url"]))
        try:
            named = ConsumerConfig(name=uuid4().hex)  # without a name, nats-py asks in a form that the server denies
            found = await connection.jetstream().subscribe(f"ev.{run_id}.>", ordered_consumer=True, config=named)
            events = []
            while True:
                message = await found.next_msg(timeout=30)
                events.append(json.loads(message.data))
                if message.metadata.num_pending == 0:
                    return events
        finally:
            await connection.close()

    return asyncio.run(read())
