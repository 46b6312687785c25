"""Publishes price lists: events like everything else."""

from collections.abc import Iterable
from datetime import datetime

import structlog

from ridges.chassis.ports import Clock, EventStore, LastPosition, WrongPosition
from ridges.contracts.events import PriceListPublished
from ridges.ledger.price_lists import STREAM, PriceList, decide_publication, price_list_in, recorded_list

log = structlog.get_logger(__name__)


class PriceLists:
    """What an administrator may do with price lists."""

    def __init__(self, *, store: EventStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def now(self) -> datetime:
        return self._clock.now()

    def parsed(self, text: str) -> PriceListPublished:
        """The list in a TOML text, not published. Raises RequestRefused."""
        return decide_publication(price_list_in(text, self._clock.now()), [], self._clock.now())

    def unpublished(self, prices: PriceList) -> PriceListPublished:
        """The list as it would be published."""
        return decide_publication(prices, [], self._clock.now())

    async def recorded(self, price_list: str, runs: Iterable[str]) -> PriceListPublished | None:
        """A list that calls of these runs were charged by, read from them; None when none was.

        Raises:
            EventStoreUnavailable: ask again.

        """
        calls = [each.event for run_id in runs for each in await self._store.read_run(run_id)]
        return recorded_list(price_list, calls)

    async def publish(self, prices: PriceList) -> tuple[PriceListPublished, int]:
        """The event in the log, and its position. Publishing the same again changes nothing.

        Raises:
            RequestRefused: the id means other prices already.
            EventStoreUnavailable: ask again.

        """
        while True:
            history = await self._store.read_run(STREAM)
            published = [each.event for each in history if isinstance(each.event, PriceListPublished)]
            event = decide_publication(prices, published, self._clock.now())
            for recorded in history:
                if recorded.event is event:
                    return event, recorded.position
            try:
                position = await self._store.append(
                    STREAM, [event], LastPosition(history[-1].position if history else 0)
                )
            except WrongPosition:
                continue
            log.info("price list published", price_list=event.price_list, models=len(event.prices), position=position)
            return event, position
