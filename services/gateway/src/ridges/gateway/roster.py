"""The providers at run time: their adapters, health and slots. A reload exchanges them under the calls in flight."""

import asyncio
import random
from collections.abc import Callable

import msgspec
import structlog

from ridges.chassis.ports import Clock
from ridges.gateway import choice
from ridges.gateway.errors import Kind
from ridges.gateway.fair_queue import FairQueue
from ridges.gateway.ports import ModelProvider
from ridges.gateway.providers_config import Model, Provider, ProvidersConfig

log = structlog.get_logger(__name__)

FULL_WAIT_S = 1.0
"""What callers are told where every queue is full."""

MakeAdapter = Callable[[Provider], ModelProvider]
"""Raises ConfigError."""


class NoneUsable(Exception):
    """Every provider of the model that was not tried yet rests or is full, or no slot got free before the deadline."""

    def __init__(self, usable_in_s: float) -> None:
        super().__init__(f"no provider is usable for another {usable_in_s:.0f} s")
        self.usable_in_s = usable_in_s


class Seat:
    """A provider's mutable side. One that a reload replaced lives on until its last call has ended."""

    def __init__(self, provider: Provider, adapter: ModelProvider) -> None:
        self.provider, self.adapter = provider, adapter
        self.health = choice.Health()
        self.queue = FairQueue(provider.max_concurrency, provider.max_queue)
        self.retired = False
        self.holders = 0
        """Calls that may still ask it: those that were admitted before a reload wait for their turn afterwards."""

    @property
    def unused(self) -> bool:
        return self.queue.idle and not self.holders


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one provider, ready to be asked."""

    seat: Seat
    model: Model
    price_list: str

    @property
    def provider(self) -> Provider:
        return self.seat.provider


class Turn:
    """One attempt's place at a provider: use it, tell how it went, give it back."""

    __slots__ = ("_clock", "_given_back", "_probe", "_retire", "offer")

    def __init__(self, offer: Offer, clock: Clock, *, probe: bool, retire: Callable[[Seat], None]) -> None:
        self.offer = offer
        self._clock, self._probe, self._retire = clock, probe, retire
        self._given_back = False

    @property
    def adapter(self) -> ModelProvider:
        return self.offer.seat.adapter

    def went_well(self) -> None:
        seat = self.offer.seat
        seat.health = choice.succeeded(seat.health)

    def went_wrong(self) -> None:
        seat, now = self.offer.seat, self._clock.monotonic()
        before, seat.health = seat.health, choice.failed(seat.health, now, decides=self._probe)
        if choice.is_open(seat.health) and seat.health.rest_until != before.rest_until:
            rest_s = seat.health.rest_until - now
            log.warning("a provider rests", provider=seat.provider.name, failures=seat.health.failures, rest_s=rest_s)

    def asked_for_patience(self, retry_after_s: float | None) -> None:
        seat = self.offer.seat
        another_probes = seat.health.probing and not self._probe
        health = choice.told_to_wait(seat.health, self._clock.monotonic(), retry_after_s)
        seat.health = msgspec.structs.replace(health, probing=another_probes)

    def said_nothing(self) -> None:
        """The attempt ended without saying anything about the provider."""
        if self._probe:
            self.offer.seat.health = choice.left_undecided(self.offer.seat.health)

    def give_back(self) -> None:
        if self._given_back:
            return
        self._given_back = True
        seat = self.offer.seat
        seat.queue.release()
        if seat.retired and seat.unused:
            self._retire(seat)


class Roster:
    """Hands out turns at providers."""

    def __init__(self, config: ProvidersConfig, make: MakeAdapter, clock: Clock, rng: random.Random) -> None:
        self._clock, self._rng = clock, rng
        self._seats: dict[str, Seat] = {}
        self._offers: dict[tuple[str, Kind], tuple[Offer, ...]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._take_over(config, {provider.name: Seat(provider, make(provider)) for provider in config.providers})

    def offers(self, model: str, kind: Kind) -> tuple[Offer, ...]:
        """Everything that serves that very model; empty when nothing does."""
        return self._offers.get((model, kind), ())

    def listed(self, kind: Kind) -> list[Offer]:
        """All offers of a kind, one for each provider of each model."""
        return [offer for (_, of_kind), offers in self._offers.items() if of_kind == kind for offer in offers]

    def queues(self) -> dict[str, tuple[int, int]]:
        """(requests at work, calls that wait) of each provider."""
        return {name: seat.queue.depth for name, seat in self._seats.items()}

    def replace(self, config: ProvidersConfig, make: MakeAdapter) -> None:
        """Serve new calls by another configuration. Providers that are the same keep connections, health and queue.

        Calls in flight end with the offers they began with. Recordings are always read again.

        Raises:
            ConfigError: an adapter cannot be made; nothing has changed.

        """
        seats: dict[str, Seat] = {}
        made: list[Seat] = []
        try:
            for provider in config.providers:
                seat = self._seats.get(provider.name)
                if seat is None or seat.provider != provider or provider.kind == "replay":
                    seat = Seat(provider, make(provider))
                    made.append(seat)
                seats[provider.name] = seat
        except BaseException:
            for seat in made:
                self._close(seat)
            raise
        left = [seat for seat in self._seats.values() if seat not in seats.values()]
        self._take_over(config, seats)
        for seat in left:
            seat.retired = True
            if seat.unused:
                self._close(seat)

    def hold(self, offers: tuple[Offer, ...]) -> None:
        """Keep their providers open for a call, whatever is reloaded, until ``release``."""
        for offer in offers:
            offer.seat.holders += 1

    def release(self, offers: tuple[Offer, ...]) -> None:
        """The call has ended."""
        for offer in offers:
            seat = offer.seat
            seat.holders -= 1
            if seat.retired and seat.unused:
                self._close(seat)

    async def take(self, offers: tuple[Offer, ...], tried: set[str], deadline: float, run_id: str) -> Turn:
        """A turn at a healthy provider, weighted random. Waits while all slots are taken.

        Raises:
            NoneUsable: none is healthy, or no slot got free before the deadline.

        """
        while True:
            turn, offer = self._chosen(offers, tried)
            if turn is not None:
                return turn
            seat = offer.seat
            health = seat.health = choice.started(seat.health)
            got = False
            try:
                got = await seat.queue.wait(run_id, max(0.0, deadline - self._clock.monotonic()))
            finally:
                if not got and health.probing:
                    seat.health = choice.left_undecided(seat.health)
            if not got:
                raise NoneUsable(FULL_WAIT_S)
            turn = Turn(offer, self._clock, probe=health.probing, retire=self._close)
            if health.probing or choice.usable(seat.health, self._clock.monotonic()):
                return turn
            turn.give_back()

    def take_now(self, offers: tuple[Offer, ...], tried: set[str]) -> Turn | None:
        """A turn at a healthy provider that has a free slot this moment, or none."""
        try:
            return self._chosen(offers, tried)[0]
        except NoneUsable:
            return None

    async def close(self) -> None:
        """Release all connections."""
        for seat in self._seats.values():
            self._close(seat)
        while self._closing:
            await asyncio.wait(set(self._closing))

    def _chosen(self, offers: tuple[Offer, ...], tried: set[str]) -> tuple[Turn | None, Offer]:
        """A turn at the chosen offer; without one where its slots are all taken and its queue has room."""
        now = self._clock.monotonic()
        left = [offer for offer in offers if offer.provider.name not in tried]
        candidates = [
            choice.Candidate(
                name=offer.provider.name,
                weight=offer.provider.weight,
                health=offer.seat.health,
                free_slots=offer.seat.queue.free,
            )
            for offer in left
            if not offer.seat.queue.full
        ]
        chosen = choice.choose(candidates, now, self._rng)
        if chosen is None:
            waits = [choice.usable_in_s(offer.seat.health, now) for offer in left]
            raise NoneUsable(max(min(waits, default=0.0), FULL_WAIT_S))
        offer = next(offer for offer in left if offer.provider.name == chosen.name)
        seat = offer.seat
        if not seat.queue.take():
            return None, offer
        probe = choice.is_open(seat.health)
        if probe:
            seat.health = choice.started(seat.health)
        return Turn(offer, self._clock, probe=probe, retire=self._close), offer

    def _take_over(self, config: ProvidersConfig, seats: dict[str, Seat]) -> None:
        offers: dict[tuple[str, Kind], tuple[Offer, ...]] = {}
        for provider in config.providers:
            for model in provider.models:
                offer = Offer(seat=seats[provider.name], model=model, price_list=config.price_list)
                key = (model.name, model.kind)
                offers[key] = (*offers.get(key, ()), offer)
        self._seats, self._offers = seats, offers

    def _close(self, seat: Seat) -> None:
        closing = asyncio.ensure_future(seat.adapter.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
