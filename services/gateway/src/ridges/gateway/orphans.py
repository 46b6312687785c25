"""Reservations that this gateway left open when it was killed: settled by estimate when it is started again.

The provider may have worked for them, and nobody will ever tell what it did. They are charged as a call is whose caller
left: the prompt, and output for the time that passed, never more than was reserved; marked as an estimate. What no
restarted gateway claims (another name, a log that went on for long) the ledger settles when the run ends.
"""

import asyncio
from uuid import NAMESPACE_URL, uuid5

import structlog

from ridges.chassis.ports import Clock, EventStore, EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.contracts.usage import TokenUsage, cost_nano_usd
from ridges.gateway.run_states import RunStates, RunView
from ridges.gateway.settling import Settler
from ridges.gateway.usage_parsing import TOKENS_PER_SECOND

log = structlog.get_logger(__name__)

NEWEST_EVENTS = 20_000
"""How far back from the log's end is looked at start; older runs are looked at when they call."""
BYTES_PER_TOKEN = 4
"""A reservation counts a prompt by its bytes."""


class Orphans:
    """Finds and settles them, once."""

    def __init__(
        self,
        store: EventStore,
        states: RunStates,
        settler: Settler,
        clock: Clock,
        *,
        gateway: str,
        longest_call_s: float,
    ) -> None:
        self._store, self._states, self._settler, self._clock = store, states, settler, clock
        self._gateway, self._longest_call_s = gateway, longest_call_s
        states.on_loaded = self.settle_in

    async def settle_recent(self) -> None:
        """Look through the end of the log, once it answers. Ends by itself."""
        await self._states.following()
        while True:
            try:
                for run_id in await self._runs_with_open_calls():
                    await self._states.view(run_id)  # which settles them
                return
            except EventStoreUnavailable as error:
                log.warning("the log is away; calls that a crash left open are looked for later", error=str(error))
                await asyncio.sleep(1.0)

    def settle_in(self, view: RunView) -> None:
        """Settle what this gateway's earlier life left open in the run."""
        for reservation in list(view.spending.open.values()):
            event = reservation.event
            if event.gateway == self._gateway and reservation.position <= self._states.start_position:
                log.warning("a call that a crash left open is settled", run_id=view.run_id, call_id=event.call_id)
                self._settler.later(view, self._settlement(event))

    async def _runs_with_open_calls(self) -> set[str]:
        end = self._states.start_position
        open_calls: dict[str, str] = {}
        types = (ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed, ev.InferenceSettled)
        async for recorded in self._store.read_all(after=max(0, end - NEWEST_EVENTS), types=types):
            event = recorded.event
            if isinstance(event, ev.InferenceReserved):
                if event.gateway == self._gateway and recorded.position <= end:
                    open_calls[event.call_id] = event.run_id
            elif isinstance(event, ev.InferenceMade | ev.InferenceFailed | ev.InferenceSettled):
                open_calls.pop(event.call_id, None)
        return set(open_calls.values())

    def _settlement(self, reserved: ev.InferenceReserved) -> ev.InferenceFailed:
        """The same event however often it is made."""
        usage = self._estimate(reserved)
        most = reserved.cost_nano_usd
        cost = most if reserved.price is None else min(most, cost_nano_usd(usage, reserved.price))
        attempt = None
        if reserved.price is not None:
            attempt = ev.InferenceAttempt(
                provider=ev.LOST,
                served_model=reserved.model,
                outcome="abandoned",
                latency_ms=0,
                usage=usage,
                usage_source="estimated",
                price=reserved.price,
                price_list=ev.LOST,
                cost_nano_usd=cost,
                detail="the gateway was lost during the call",
            )
        return ev.InferenceFailed(
            id=str(uuid5(NAMESPACE_URL, f"ridges:orphan:{reserved.run_id}:{reserved.call_id}")),
            run_id=reserved.run_id,
            time=self._clock.now(),
            causation_id=reserved.id,
            call_id=reserved.call_id,
            kind=reserved.kind,
            model=reserved.model,
            attempts=(attempt,) if attempt else (),
            usage=usage,
            cost_nano_usd=cost,
            status=500,
            detail="The gateway was lost during this call; what it cost is estimated.",
        )

    def _estimate(self, reserved: ev.InferenceReserved) -> TokenUsage:
        if reserved.prompt_tokens is None:
            return TokenUsage(input=reserved.tokens)
        passed_s = max(0.0, (self._clock.now() - reserved.time).total_seconds())
        output = int(min(passed_s, self._longest_call_s) * TOKENS_PER_SECOND)
        return TokenUsage(
            input=-(-reserved.prompt_tokens // BYTES_PER_TOKEN),
            output=min(output, reserved.tokens - reserved.prompt_tokens),
        )
