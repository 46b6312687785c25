"""The providers at run time: their adapters, health and free slots."""

import asyncio
import random
from collections.abc import Mapping

import msgspec
import structlog

from ridges.chassis.ports import Clock
from ridges.gateway import choice
from ridges.gateway.errors import Kind
from ridges.gateway.ports import ModelProvider
from ridges.gateway.providers_config import Model, Provider, ProvidersConfig

log = structlog.get_logger(__name__)


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one provider, ready to be asked."""

    provider: Provider
    model: Model
    adapter: ModelProvider
    price_list: str


class NoneUsable(Exception):
    """Every provider of the model that was not tried yet rests, or its queue did not move before the deadline."""

    def __init__(self, usable_in_s: float) -> None:
        super().__init__(f"no provider is usable for another {usable_in_s:.0f} s")
        self.usable_in_s = usable_in_s


class _Seat:
    """A provider's mutable side."""

    def __init__(self, provider: Provider) -> None:
        self.health = choice.Health()
        self.slots = asyncio.Semaphore(provider.max_concurrency)
        """Wakes in order of arrival."""
        self.free = provider.max_concurrency


class Roster:
    """Hands out offers: ``take`` one, use it, tell how it went, ``give_back``."""

    def __init__(
        self, config: ProvidersConfig, adapters: Mapping[str, ModelProvider], clock: Clock, rng: random.Random
    ) -> None:
        self._clock, self._rng = clock, rng
        self._seats = {provider.name: _Seat(provider) for provider in config.providers}
        self._offers: dict[tuple[str, Kind], tuple[Offer, ...]] = {}
        for provider in config.providers:
            for model in provider.models:
                offer = Offer(
                    provider=provider, model=model, adapter=adapters[provider.name], price_list=config.price_list
                )
                key = (model.name, model.kind)
                self._offers[key] = (*self._offers.get(key, ()), offer)

    def offers(self, model: str, kind: Kind) -> tuple[Offer, ...]:
        """Everything that serves that very model; empty when nothing does."""
        return self._offers.get((model, kind), ())

    def listed(self, kind: Kind) -> list[Offer]:
        """All offers of a kind, one for each provider of each model."""
        return [offer for (_, of_kind), offers in self._offers.items() if of_kind == kind for offer in offers]

    async def take(self, offers: tuple[Offer, ...], tried: set[str], deadline: float) -> Offer:
        """A healthy offer with a slot of its own, weighted random. Waits while all slots are taken.

        Raises:
            NoneUsable: none is healthy, or no slot got free before the deadline.

        """
        by_name = {offer.provider.name: offer for offer in offers if offer.provider.name not in tried}
        now = self._clock.monotonic()
        candidates = [
            choice.Candidate(
                name=name,
                weight=offer.provider.weight,
                health=self._seats[name].health,
                free_slots=self._seats[name].free,
            )
            for name, offer in by_name.items()
        ]
        chosen = choice.choose(candidates, now, self._rng)
        if chosen is None:
            raise NoneUsable(min((choice.usable_in_s(candidate.health, now) for candidate in candidates), default=1.0))
        seat = self._seats[chosen.name]
        try:
            async with asyncio.timeout(max(0.0, deadline - now)):
                await seat.slots.acquire()
        except TimeoutError:
            raise NoneUsable(1.0) from None
        seat.free -= 1
        seat.health = choice.started(seat.health)
        return by_name[chosen.name]

    def give_back(self, offer: Offer) -> None:
        seat = self._seats[offer.provider.name]
        seat.free += 1
        seat.slots.release()

    def went_well(self, offer: Offer) -> None:
        self._change(offer, choice.succeeded(self._seats[offer.provider.name].health))

    def went_wrong(self, offer: Offer) -> None:
        name, now = offer.provider.name, self._clock.monotonic()
        health = choice.failed(self._seats[name].health, now)
        if choice.is_open(health):
            log.warning("a provider rests", provider=name, failures=health.failures, rest_s=health.rest_until - now)
        self._change(offer, health)

    def asked_for_patience(self, offer: Offer, retry_after_s: float | None) -> None:
        health = self._seats[offer.provider.name].health
        self._change(offer, choice.told_to_wait(health, self._clock.monotonic(), retry_after_s))

    def said_nothing(self, offer: Offer) -> None:
        self._change(offer, choice.left_undecided(self._seats[offer.provider.name].health))

    def _change(self, offer: Offer, health: choice.Health) -> None:
        self._seats[offer.provider.name].health = health
